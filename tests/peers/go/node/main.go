// A node in Go on connect-go, from the facts of the wire protocol: it enrolls, proves its identity, opens the stream,
// answers one discovery command with one device for each address, and ends with its input.
//
// Usage: node URL NAME. The enrollment code and then the API key come on standard input, one per line.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"

	"fleet.example/peers/wire"
)

const service = "/fleetnodegateway.v1.FleetNodeGatewayService/"

type message = wire.Message

var h2c = func() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: protocols}}
}()

func client(http connect.HTTPClient, url, method string, options ...connect.ClientOption) *connect.Client[message, message] {
	options = append(options, connect.WithCodec(wire.Codec{}))
	return connect.NewClient[message, message](http, url+service+method, options...)
}

// call makes a unary Connect call over HTTP/1.1.
func call(url, method, token string, body *message) wire.Fields {
	request := connect.NewRequest(body)
	if token != "" {
		request.Header().Set("authorization", "Bearer "+token)
	}
	answer, err := client(http.DefaultClient, url, method).CallUnary(context.Background(), request)
	check(err)
	fields, err := wire.Parse(answer.Msg.Bytes)
	check(err)
	return fields
}

func main() {
	url, name := os.Args[1], os.Args[2]
	lines := bufio.NewScanner(os.Stdin)
	identity, private, err := ed25519.GenerateKey(rand.Reader)
	check(err)
	encryption, err := ecdh.X25519().GenerateKey(rand.Reader)
	check(err)

	code := line(lines)
	registered := call(url, "Register", "", new(message).Text(1, code).Text(2, name).
		Text(3, string(identity)).Text(4, string(encryption.PublicKey().Bytes())))
	hash := sha256.Sum256(identity)
	if own := fmt.Sprintf("%x", hash[:8]); own != registered.Text(3) {
		log.Fatalf("the server sees the fingerprint %s, this node %s", registered.Text(3), own)
	}
	fmt.Println("registered", registered.Number(1))

	key := line(lines)
	begun := call(url, "BeginAuthHandshake", "", new(message).Text(1, key).Text(2, string(identity)))
	challenge := []byte(begun.Text(1))
	if !bytes.HasPrefix(challenge, []byte("fleet-node-auth1")) {
		log.Fatal("the challenge has no tag")
	}
	completed := call(url, "CompleteAuthHandshake", "", new(message).Text(1, string(challenge)).
		Text(2, string(ed25519.Sign(private, challenge))))
	token := completed.Text(1)
	now := new(message).Number(1, uint64(time.Now().Unix()))
	call(url, "UploadHeartbeat", token, new(message).Nested(1, now))

	stream := client(h2c, url, "ControlStream", connect.WithGRPC()).CallBidiStream(context.Background())
	stream.RequestHeader().Set("authorization", "Bearer "+token)
	hello := new(message).Number(1, 1)
	check(stream.Send(new(message).Nested(1, hello)))
	for {
		received, err := stream.Receive()
		check(err)
		response, err := wire.Parse(received.Bytes)
		check(err)
		switch {
		case response[1] != nil:
			fmt.Println("accepted")
		case response[2] != nil:
			command, err := wire.Parse([]byte(response.Text(2)))
			check(err)
			check(stream.Send(new(message).Nested(2, discover(url, token, command))))
			// The stream stays open until the input ends: an ack that was not sent yet would be lost with it.
			lines.Scan()
			check(stream.CloseRequest())
			_ = stream.CloseResponse()
			return
		}
	}
}

// discover reports a device at each address of a list, and returns the ack.
func discover(url, token string, command wire.Fields) *message {
	agent, err := wire.Parse([]byte(command.Text(2)))
	check(err)
	request, err := wire.Parse([]byte(agent.Text(1)))
	check(err)
	list, err := wire.Parse([]byte(request.Text(1)))
	check(err)
	report := new(message).Text(2, command.Text(1))
	for place, address := range list[1] {
		device := new(message).Text(1, fmt.Sprintf("mac:02:00:5E:20:00:%02X", place)).
			Text(2, string(address)).Text(3, list.Text(2)).Text(4, "http").Text(5, "antminer").
			Text(6, "Antminer S19").Text(7, "Bitmain").Text(8, "2024.1")
		report.Nested(1, device)
	}
	answer := call(url, "ReportDiscoveredDevices", token, report)
	fmt.Println("reported", len(list[1]), "accepted", answer.Number(1), "rejected", answer.Number(2))
	return new(message).Text(1, command.Text(1)).Number(2, 1).Number(4, 1)
}

func line(lines *bufio.Scanner) string {
	if !lines.Scan() {
		log.Fatal("a line of input is missing")
	}
	return strings.TrimSpace(lines.Text())
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
