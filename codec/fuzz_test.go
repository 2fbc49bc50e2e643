package codec

import (
	"bytes"
	"math"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// fuzzDecode feeds src to c. What decodes must survive a round trip: its encoding decodes, and encodes to the same bytes.
func fuzzDecode[T any](t *testing.T, c Codec[T], src []byte) {
	before := bytes.Clone(src)
	v, err := c.Decode(src)
	if !bytes.Equal(src, before) {
		t.Fatalf("%T: Decode changed src", c)
	}
	if err != nil {
		return
	}
	first, err := c.Append(nil, v)
	if err != nil {
		return // a value that can be read but not written, such as a string in protobuf's unknown fields
	}
	again, err := c.Decode(first)
	if err != nil {
		t.Fatalf("%T: %q decodes to %+v, whose encoding %q does not: %v", c, src, v, first, err)
	}
	second, err := c.Append(nil, again)
	if err != nil || !bytes.Equal(first, second) {
		t.Fatalf("%T: %q became %q and then %q, %v", c, src, first, second, err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, src := range []string{"", "null", `{"Name":"x"}`, "\x81\xa4Name\xa1x", "\xdd\xff\xff\xff\xff", "\x81\x91\x01\x02", "\x0a\x03abc"} {
		f.Add([]byte(src))
	}
	u, _ := JSON[user]().Append(nil, someUser())
	f.Add(u)
	u, _ = Msgpack[user]().Append(nil, someUser())
	f.Add(u)
	u, _ = proto.Marshal(someStruct(f))
	f.Add(u)
	f.Fuzz(func(t *testing.T, src []byte) {
		fuzzDecode(t, JSON[user](), src)
		fuzzDecode(t, JSON[any](), src)
		fuzzDecode(t, Msgpack[user](), src)
		fuzzDecode(t, Msgpack[map[string]string](), src)
		fuzzDecode(t, Msgpack[map[string]any](), src)
		fuzzDecode(t, Proto[*structpb.Struct](), src)
		fuzzDecode(t, Bytes(), src)
		fuzzDecode(t, String(), src)
		Msgpack[any]().Decode(src)
		Msgpack[map[any]any]().Decode(src)
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add("Zoë", 7, []byte{1}, 0.5, uint64(1)<<63, "k", "v")
	f.Add("", -1, []byte(nil), math.Copysign(0, -1), uint64(0), "", "\u2028<")
	f.Fuzz(func(t *testing.T, name string, age int, raw []byte, balance float64, big uint64, k, v string) {
		want := user{Name: name, Age: age, Raw: raw, Balance: balance, Big: big, Labels: map[string]string{k: v}}
		got, err := Msgpack[user]().Decode(encode(t, Msgpack[user](), want))
		if err != nil || got.Name != name || got.Age != age || !bytes.Equal(got.Raw, raw) || got.Big != big || got.Labels[k] != v ||
			got.Balance != balance && balance == balance {
			t.Fatalf("got %+v, %v; want %+v", got, err, want)
		}
		src, err := JSON[user]().Append(nil, want)
		if err != nil {
			return // JSON has no NaN and no infinity
		}
		if bytes.HasSuffix(src, []byte("\n")) {
			t.Fatalf("%q ends in a newline", src)
		}
		fuzzDecode(t, JSON[user](), src)
	})
}
