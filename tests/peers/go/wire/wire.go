// Package wire writes and reads protobuf messages by field number, so that the peers need nothing generated.
package wire

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Message is an encoded message. Its fields are appended in any order.
type Message struct{ Bytes []byte }

// Text appends a string or bytes field.
func (m *Message) Text(number protowire.Number, value string) *Message {
	m.Bytes = protowire.AppendTag(m.Bytes, number, protowire.BytesType)
	m.Bytes = protowire.AppendString(m.Bytes, value)
	return m
}

// Number appends an integer, bool or enum field.
func (m *Message) Number(number protowire.Number, value uint64) *Message {
	m.Bytes = protowire.AppendTag(m.Bytes, number, protowire.VarintType)
	m.Bytes = protowire.AppendVarint(m.Bytes, value)
	return m
}

// Nested appends a message field.
func (m *Message) Nested(number protowire.Number, value *Message) *Message {
	return m.Text(number, string(value.Bytes))
}

// Fields are the fields of a decoded message by number, in order of arrival. A varint is its eight bytes.
type Fields map[protowire.Number][][]byte

// Parse decodes the fields of a message.
func Parse(encoded []byte) (Fields, error) {
	fields := Fields{}
	for len(encoded) > 0 {
		number, kind, length := protowire.ConsumeTag(encoded)
		if length < 0 {
			return nil, protowire.ParseError(length)
		}
		encoded = encoded[length:]
		length = protowire.ConsumeFieldValue(number, kind, encoded)
		if length < 0 {
			return nil, protowire.ParseError(length)
		}
		switch kind {
		case protowire.BytesType:
			value, _ := protowire.ConsumeBytes(encoded)
			fields[number] = append(fields[number], value)
		case protowire.VarintType:
			value, _ := protowire.ConsumeVarint(encoded)
			fields[number] = append(fields[number], binary.BigEndian.AppendUint64(nil, value))
		}
		encoded = encoded[length:]
	}
	return fields, nil
}

// Text returns the last value of a string or bytes field, or nothing.
func (f Fields) Text(number protowire.Number) string {
	values := f[number]
	if len(values) == 0 {
		return ""
	}
	return string(values[len(values)-1])
}

// Number returns the last value of an integer field, or 0.
func (f Fields) Number(number protowire.Number) uint64 {
	if text := f.Text(number); len(text) == 8 {
		return binary.BigEndian.Uint64([]byte(text))
	}
	return 0
}

// Codec passes encoded messages through. It has the interface of connect-go and of grpc-go.
type Codec struct{}

func (Codec) Name() string { return "proto" }

func (Codec) Marshal(message any) ([]byte, error) {
	raw, ok := message.(*Message)
	if !ok {
		return nil, fmt.Errorf("%T is not encoded", message)
	}
	return raw.Bytes, nil
}

func (Codec) Unmarshal(encoded []byte, message any) error {
	raw, ok := message.(*Message)
	if !ok {
		return fmt.Errorf("%T does not take encoded bytes", message)
	}
	raw.Bytes = append([]byte(nil), encoded...)
	return nil
}
