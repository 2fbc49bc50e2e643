package codec

import (
	"fmt"

	"google.golang.org/protobuf/proto"
)

// Message is a pointer to a generated protobuf message type M.
type Message[M any] interface {
	*M
	proto.Message
}

// Proto returns the codec of the generated message type P: codec.Proto[*pb.User](). Encoding is deterministic in one
// build of the program (map entries are sorted); unknown fields survive decoding and encoding. A nil message and an
// empty one have the same, empty encoding, and decode to an empty message.
//
// P must be generated code. *dynamicpb.Message fits the constraint, but its zero value belongs to no type; Proto panics
// on it and its like, at once and not at the first value that is read.
func Proto[P Message[M], M any]() Codec[P] {
	defer func() {
		if r := recover(); r != nil {
			panic(fmt.Sprintf("codec: Proto[%T]: not a generated protobuf message: %v", P(nil), r))
		}
	}()
	m := P(new(M))
	m.ProtoReflect().Descriptor().FullName()
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(nil, m); err != nil {
		panic(err)
	}
	return protoCodec[P, M]{}
}

type protoCodec[P Message[M], M any] struct{}

func (protoCodec[P, M]) Append(dst []byte, v P) ([]byte, error) {
	out, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(dst, v)
	if err != nil {
		return dst, &failure{"encoding protobuf", err}
	}
	return out, nil
}

func (protoCodec[P, M]) Decode(src []byte) (P, error) {
	m := P(new(M))
	// A lazy field would decode later, out of bytes that it kept, and find its errors then.
	if err := (proto.UnmarshalOptions{NoLazyDecoding: true}).Unmarshal(src, m); err != nil {
		return nil, &failure{"decoding protobuf", err}
	}
	return m, nil
}

// New returns an empty message.
func (protoCodec[P, M]) New() P { return P(new(M)) }
