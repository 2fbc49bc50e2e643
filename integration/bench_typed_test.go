package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/polykv/kv"
	"github.com/polykv/kv/codec"
)

// service is a value of an ordinary size.
type service struct {
	Name, Address string
	Port          int
	Tags          []string
	Since         time.Time
}

// typed compares a Typed of each codec with the store's client and the
// encoding's own functions.
func (raw rawClient) typed(b *testing.B, s *kv.Store) {
	svc := service{
		Name: "orders-7", Address: "10.1.2.3", Port: 8443, Tags: []string{"eu", "blue"},
		Since: time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC),
	}
	typedAgainst(b, raw, s, "json", codec.JSON[service](), svc,
		func(v service) ([]byte, error) { return json.Marshal(v) },
		func(p []byte) (v service, err error) { err = json.Unmarshal(p, &v); return v, err })
	typedAgainst(b, raw, s, "msgpack", codec.Msgpack[service](), svc,
		func(v service) ([]byte, error) { return msgpack.Marshal(v) },
		func(p []byte) (v service, err error) { err = msgpack.Unmarshal(p, &v); return v, err })
	message := structpb.NewStringValue(string(benchValue))
	typedAgainst(b, raw, s, "proto", codec.Proto[*structpb.Value](), message,
		func(v *structpb.Value) ([]byte, error) { return proto.Marshal(v) },
		func(p []byte) (*structpb.Value, error) { v := new(structpb.Value); return v, proto.Unmarshal(p, v) })
	typedAgainst(b, raw, s, "bytes", codec.Bytes(), benchValue,
		func(v []byte) ([]byte, error) { return v, nil },
		func(p []byte) ([]byte, error) { return bytes.Clone(p), nil })
}

func typedAgainst[T any](
	b *testing.B, raw rawClient, s *kv.Store, name string, c codec.Codec[T], v T,
	encode func(T) ([]byte, error), decode func([]byte) (T, error),
) {
	ctx, t := context.Background(), kv.NewTyped(s, c, "typed")
	put := func(int) error {
		p, err := encode(v)
		if err != nil {
			return err
		}
		return raw.put(p)
	}
	b.Run(name+" put", func(b *testing.B) {
		against(b, put, func(int) error { _, err := t.Put(ctx, name, v); return err })
	})
	b.Run(name+" get", func(b *testing.B) {
		if err := put(0); err != nil {
			b.Fatal(err)
		}
		if _, err := t.Put(ctx, name, v); err != nil {
			b.Fatal(err)
		}
		against(b, func(int) error {
			p, err := raw.get()
			if err == nil {
				_, err = decode(p)
			}
			return err
		}, func(int) error { _, err := t.Get(ctx, name); return err })
	})
}
