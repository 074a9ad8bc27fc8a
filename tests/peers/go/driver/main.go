// A driver plugin on hashicorp/go-plugin, as upstream's own drivers are: devices that answer `WHO` on port 4478 with
// their model, serial number and MAC.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"fleet.example/peers/wire"
)

const port = "4478"

// A device without an open port, which the driver knows by its address.
const virtual = "127.0.0.86"

type message = wire.Message

// codec encodes the driver's messages by hand, and those of go-plugin's own services as usual.
type codec struct{ wire.Codec }

func (c codec) Marshal(value any) ([]byte, error) {
	if generated, ok := value.(proto.Message); ok {
		return proto.Marshal(generated)
	}
	return c.Codec.Marshal(value)
}

func (c codec) Unmarshal(encoded []byte, value any) error {
	if generated, ok := value.(proto.Message); ok {
		return proto.Unmarshal(encoded, generated)
	}
	return c.Codec.Unmarshal(encoded, value)
}

type handler func(request wire.Fields) (*message, error)

func identity(wire.Fields) (*message, error) {
	return new(message).Text(1, "gopher").Text(2, "v1"), nil
}

func ports(wire.Fields) (*message, error) {
	return new(message).Text(1, port), nil
}

func discover(request wire.Fields) (*message, error) {
	if request.Text(1) == virtual {
		return device(virtual, []string{"GOPHER", "V1", "SN-86", "02:00:5E:00:00:86"}), nil
	}
	address := net.JoinHostPort(request.Text(1), request.Text(2))
	connection, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintln(connection, "WHO"); err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	answer, err := bufio.NewReader(connection).ReadString('\n')
	words := strings.Fields(answer)
	if err != nil || len(words) != 4 || words[0] != "GOPHER" {
		return nil, status.Error(codes.NotFound, "not a device of this driver")
	}
	return device(request.Text(1), words), nil
}

func device(host string, words []string) *message {
	number, _ := strconv.ParseUint(port, 10, 16)
	info := new(message).Text(1, host).Number(2, number).Text(3, "http").Text(4, words[2]).
		Text(5, words[1]).Text(6, "Gopher Works").Text(8, words[3]).Text(9, "1.0")
	return new(message).Nested(1, info)
}

// service describes sdk.v1.Driver. Every other method is answered with UNIMPLEMENTED.
func service() *grpc.ServiceDesc {
	handlers := map[string]handler{
		"Handshake": identity, "DescribeDriver": identity, "GetDiscoveryPorts": ports, "DiscoverDevice": discover,
	}
	description := &grpc.ServiceDesc{ServiceName: "sdk.v1.Driver", HandlerType: (*any)(nil)}
	for name, handle := range handlers {
		description.Methods = append(description.Methods, grpc.MethodDesc{
			MethodName: name,
			Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				request := new(message)
				if err := decode(request); err != nil {
					return nil, err
				}
				fields, err := wire.Parse(request.Bytes)
				if err != nil {
					return nil, status.Error(codes.InvalidArgument, err.Error())
				}
				return handle(fields)
			},
		})
	}
	return description
}

type driver struct{ plugin.NetRPCUnsupportedPlugin }

func (driver) GRPCServer(_ *plugin.GRPCBroker, server *grpc.Server) error {
	server.RegisterService(service(), struct{}{})
	return nil
}

func (driver) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("this program is a plugin only")
}

func main() {
	encoding.RegisterCodec(codec{})
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig{
			ProtocolVersion: 1, MagicCookieKey: "MINER_DRIVER_PLUGIN", MagicCookieValue: "fleet-miner-driver",
		},
		Plugins: plugin.PluginSet{"driver": driver{}},
		GRPCServer: func(options []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(options, grpc.ForceServerCodec(codec{}))...)
		},
	})
}
