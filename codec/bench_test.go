package codec

import (
	"encoding/json"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/polykv/kv/internal/testserver"
)

func benchmark[T any](b *testing.B, name string, c Codec[T], v T) {
	src, err := c.Append(nil, v)
	if err != nil {
		b.Fatal(err)
	}
	b.Run(name+"/append", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 2*len(src))
		for b.Loop() {
			if _, err := c.Append(buf, v); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run(name+"/decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Decode(src); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkCodec(b *testing.B) {
	u := someUser()
	benchmark(b, "json", JSON[*user](), &u)
	benchmark(b, "msgpack", Msgpack[*user](), &u)
	benchmark(b, "proto", Proto[*structpb.Struct](), someStruct(b))
	benchmark(b, "bytes", Bytes(), make([]byte, 256))
	benchmark(b, "string", String(), string(make([]byte, 256)))
	b.Run("encoding/json.Marshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := json.Marshal(&u); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Encoding into a slice that is large enough costs no allocation of our own.
func TestAppendAllocations(t *testing.T) {
	type flat struct {
		Name string
		N    int
	}
	v := &flat{"x", 1}
	buf := make([]byte, 0, 1024)
	for name, f := range map[string]func(){
		"json":    appendWith(JSON[*flat](), buf, v),
		"msgpack": appendWith(Msgpack[*flat](), buf, v),
		"bytes":   appendWith(Bytes(), buf, buf[:100]),
		"string":  appendWith(String(), buf, "abc"),
	} {
		if n := testing.AllocsPerRun(200, f); n > 0 && !testserver.Race {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func appendWith[T any](c Codec[T], buf []byte, v T) func() {
	return func() {
		if _, err := c.Append(buf, v); err != nil {
			panic(err)
		}
	}
}
