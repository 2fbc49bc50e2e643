package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type address struct {
	Street string
	Tags   []string
}

type user struct {
	Name    string
	Age     int
	Born    time.Time
	Home    address
	Work    *address
	Boss    *user
	Labels  map[string]string
	Raw     []byte
	Balance float64
	Big     uint64
	Small   int8
}

func someUser() user {
	return user{
		Name: "Zoë <&> \u2028 😀", Age: -7, Born: time.Date(1990, 2, 3, 4, 5, 6, 789_000_001, time.UTC),
		Home: address{"Main St", []string{"a", "b"}}, Work: &address{Street: "Office"},
		Boss: &user{Name: "Boss", Born: time.Unix(0, 0).UTC()}, Labels: map[string]string{"z": "1", "a": "2", "m": "3"},
		Raw: []byte{0, 1, 0xFF}, Balance: 0.1, Big: math.MaxUint64, Small: -128,
	}
}

// structured runs f with the codecs that take any type.
func structured[T any](t *testing.T, f func(t *testing.T, c Codec[T])) {
	t.Helper()
	t.Run("json", func(t *testing.T) { f(t, JSON[T]()) })
	t.Run("msgpack", func(t *testing.T) { f(t, Msgpack[T]()) })
}

func encode[T any](t *testing.T, c Codec[T], v T) []byte {
	t.Helper()
	out, err := c.Append([]byte("before"), v)
	if err != nil {
		t.Fatalf("Append(%+v): %v", v, err)
	}
	src, ok := bytes.CutPrefix(out, []byte("before"))
	if !ok {
		t.Fatalf("Append changed dst: %q", out)
	}
	return src
}

// roundTrip also checks that nothing of src is kept, and that encoding is deterministic.
func roundTrip[T any](t *testing.T, c Codec[T], v T) T {
	t.Helper()
	src := encode(t, c, v)
	for range 20 {
		if again := encode(t, c, v); !bytes.Equal(src, again) {
			t.Fatalf("two encodings of %+v:\n%q\n%q", v, src, again)
		}
	}
	before := bytes.Clone(src)
	got, err := c.Decode(src)
	if err != nil {
		t.Fatalf("Decode(%q): %v", src, err)
	}
	if !bytes.Equal(src, before) {
		t.Fatalf("Decode changed src: %q", src)
	}
	for i := range src {
		src[i] = 0xA5
	}
	if again := encode(t, c, got); !bytes.Equal(again, before) {
		t.Fatalf("encoded %q, after the round trip %q", before, again)
	}
	return got
}

// instants makes times comparable: msgpack decodes into the local zone.
func instants(u user) user {
	u.Born = u.Born.UTC()
	if u.Boss != nil {
		boss := instants(*u.Boss)
		u.Boss = &boss
	}
	return u
}

// R44: the zero value, pointers, nested structs and times.
func TestRoundTrip(t *testing.T) {
	structured(t, func(t *testing.T, c Codec[user]) {
		for _, u := range []user{{}, someUser()} {
			if got := roundTrip(t, c, u); !reflect.DeepEqual(instants(got), u) {
				t.Errorf("got  %+v\nwant %+v", got, u)
			}
		}
	})
	structured(t, func(t *testing.T, c Codec[*user]) {
		if got := roundTrip(t, c, nil); got != nil {
			t.Errorf("a nil pointer came back as %+v", got)
		}
		u := someUser()
		if got := roundTrip(t, c, &u); !reflect.DeepEqual(instants(*got), u) {
			t.Errorf("got  %+v\nwant %+v", got, u)
		}
	})
	structured(t, func(t *testing.T, c Codec[time.Time]) {
		for _, want := range []time.Time{{}, time.Unix(0, 0), time.Now(), time.Date(1969, 7, 20, 20, 17, 40, 1, time.UTC),
			time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)} {
			if got := roundTrip(t, c, want); !got.Equal(want) || got.IsZero() != want.IsZero() {
				t.Errorf("got %v, want %v", got, want)
			}
		}
	})
	structured(t, func(t *testing.T, c Codec[map[string]string]) {
		if got := roundTrip(t, c, nil); got != nil {
			t.Errorf("a nil map came back as %v", got)
		}
		want := map[string]string{"b": "1", "a": "2", "": ""}
		if got := roundTrip(t, c, want); !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
	structured(t, func(t *testing.T, c Codec[any]) {
		for _, want := range []any{nil, true, "x", 1.5, []any{"a", nil, []any{}}, map[string]any{"k": map[string]any{"l": "m"}}} {
			if got := roundTrip(t, c, want); !reflect.DeepEqual(got, want) {
				t.Errorf("got %#v, want %#v", got, want)
			}
		}
	})
	structured(t, func(t *testing.T, c Codec[int64]) {
		for _, want := range []int64{0, 1, -1, 127, 128, -128, -129, math.MaxInt64, math.MinInt64} {
			if got := roundTrip(t, c, want); got != want {
				t.Errorf("got %d, want %d", got, want)
			}
		}
	})
	structured(t, func(t *testing.T, c Codec[string]) {
		for _, want := range []string{"", "a", "\x00", "<script>&", strings.Repeat("long", 1<<16)} {
			if got := roundTrip(t, c, want); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	})
}

// R44: the reader may be older than the writer, or newer.
func TestSchemaEvolution(t *testing.T) {
	type v1 struct{ Name, Gone string }
	type v2 struct {
		Name  string
		Added *int
		More  []string
	}
	check := func(t *testing.T, old Codec[v1], new Codec[v2]) {
		t.Helper()
		n := 3
		newer, err := new.Decode(encode(t, old, v1{"x", "y"}))
		if want := (v2{Name: "x"}); err != nil || !reflect.DeepEqual(newer, want) {
			t.Errorf("a new reader of an old value: %+v, %v", newer, err)
		}
		older, err := old.Decode(encode(t, new, v2{"x", &n, []string{"a"}}))
		if want := (v1{Name: "x"}); err != nil || older != want {
			t.Errorf("an old reader of a new value: %+v, %v", older, err)
		}
	}
	t.Run("json", func(t *testing.T) { check(t, JSON[v1](), JSON[v2]()) })
	t.Run("msgpack", func(t *testing.T) { check(t, Msgpack[v1](), Msgpack[v2]()) })
}

// What does not decode is an error and the zero value, never a half-filled one.
func TestBadValues(t *testing.T) {
	whole := map[string]string{}
	structured(t, func(t *testing.T, c Codec[user]) {
		whole[t.Name()] = string(encode(t, c, someUser()))
		for n := range len(whole[t.Name()]) {
			if got, err := c.Decode([]byte(whole[t.Name()][:n])); err == nil || !reflect.DeepEqual(got, user{}) {
				t.Fatalf("cut after %d bytes: %+v, %v", n, got, err)
			}
		}
		for _, tail := range []string{"x", "}", "null", "\x00", "\xc0", whole[t.Name()]} {
			if got, err := c.Decode([]byte(whole[t.Name()] + tail)); err == nil || !reflect.DeepEqual(got, user{}) {
				t.Errorf("with %q behind it: %+v, %v", tail, got, err)
			}
		}
		if _, err := c.Decode(nil); err == nil {
			t.Error("an empty value decodes")
		}
	})
	if got, err := JSON[int]().Decode([]byte(" 42\n")); got != 42 || err != nil {
		t.Errorf("white space around JSON, as editors leave it: %v, %v", got, err)
	}
}

func TestEncodeErrors(t *testing.T) {
	structured(t, func(t *testing.T, c Codec[any]) {
		for _, v := range []any{make(chan int), []any{"secret", func() {}}} {
			out, err := c.Append([]byte("before"), v)
			if err == nil || string(out) != "before" || strings.Contains(err.Error(), "secret") {
				t.Errorf("Append(%T) = %q, %v", v, out, err)
			}
		}
		if got := roundTrip(t, c, any("after")); got != "after" {
			t.Errorf("after an error: %v", got)
		}
	})
	if _, err := JSON[float64]().Append(nil, math.NaN()); err == nil {
		t.Error("JSON has no NaN")
	}
}

func TestJSONBytes(t *testing.T) {
	if got := encode(t, JSON[string](), "<a href='x'>&</a>"); string(got) != `"<a href='x'>&</a>"` {
		t.Errorf("HTML is escaped, or a newline follows: %q", got)
	}
	if got := encode(t, JSON[json.RawMessage](), json.RawMessage(`{"a": "<"}`)); string(got) != `{"a":"<"}` {
		t.Errorf("raw message: %q", got)
	}
}

// New is for Modify with Upsert: what it returns can be filled in.
func TestNew(t *testing.T) {
	structured(t, func(t *testing.T, c Codec[*user]) {
		c.(interface{ New() *user }).New().Name = "x"
	})
	structured(t, func(t *testing.T, c Codec[map[string]int]) {
		c.(interface{ New() map[string]int }).New()["x"] = 1
	})
	structured(t, func(t *testing.T, c Codec[user]) {
		if got := c.(interface{ New() user }).New(); !reflect.DeepEqual(got, user{}) {
			t.Errorf("New() = %+v", got)
		}
	})
	structured(t, func(t *testing.T, c Codec[any]) {
		if got := c.(interface{ New() any }).New(); got != nil {
			t.Errorf("New() = %v", got)
		}
	})
	Proto[*wrapperspb.StringValue]().(interface {
		New() *wrapperspb.StringValue
	}).New().Value = "x"
}

// R8: nil and empty are one value, and what Decode returns is the caller's.
func TestBytes(t *testing.T) {
	c := Bytes()
	for _, src := range [][]byte{nil, {}} {
		if got := encode(t, c, src); len(got) != 0 {
			t.Errorf("Append(%#v) = %q", src, got)
		}
		if got, err := c.Decode(src); got == nil || len(got) != 0 || err != nil {
			t.Errorf("Decode(%#v) = %#v, %v", src, got, err)
		}
	}
	src := []byte{0, 1, 0xFF}
	got := roundTrip(t, c, src)
	if !bytes.Equal(got, []byte{0, 1, 0xFF}) {
		t.Errorf("got %v", got)
	}
	if got := append(got, 2); &got[0] == &src[0] {
		t.Error("Decode returns src")
	}
}

func TestString(t *testing.T) {
	for _, want := range []string{"", "a", "\xff\x00 not UTF-8"} {
		if got := roundTrip(t, String(), want); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got, err := String().Decode(nil); got != "" || err != nil {
		t.Errorf("Decode(nil) = %q, %v", got, err)
	}
}

// R35: values never stand in an error.
func TestErrorsDoNotQuote(t *testing.T) {
	type inner struct{ At time.Time }
	check := func(name string, err error, wantCause any) {
		t.Helper()
		if err == nil {
			t.Fatalf("%s: decodes", name)
		}
		outer := &Error{Key: "users/7", Revision: 42, Err: err}
		texts := []string{outer.Error(), fmt.Sprintf("%v %+v", outer, outer)}
		if _, ours := err.(*failure); ours {
			texts = append(texts, err.Error())
		}
		for _, text := range texts {
			if strings.Contains(text, "secret") || strings.Contains(text, "4711") {
				t.Errorf("%s: %q quotes the value", name, text)
			}
		}
		if text := outer.Error(); !strings.Contains(text, `"users/7"`) || !strings.Contains(text, "revision 42") {
			t.Errorf("%s: %q does not name key and revision", name, text)
		}
		if !errors.As(outer, wantCause) {
			t.Errorf("%s: the cause is not reachable from %v", name, outer)
		}
	}
	decodeError := func(_ any, err error) error { return err }
	check("time in JSON", decodeError(JSON[inner]().Decode([]byte(`{"At":"secret"}`))), new(*time.ParseError))
	check("number in JSON", decodeError(JSON[int8]().Decode([]byte(`4711`))), new(*json.UnmarshalTypeError))
	check("syntax of JSON", decodeError(JSON[string]().Decode([]byte(`secret`))), new(*json.SyntaxError))
	check("type in msgpack", decodeError(Msgpack[int]().Decode([]byte("\xa6secret"))), new(error))
	check("end of msgpack", decodeError(Msgpack[int]().Decode([]byte("\xa9secret"))), new(formatError))
	check("protobuf", decodeError(Proto[*structpb.Struct]().Decode([]byte("secret"))), new(error))
	check("protobuf UTF-8", decodeError(Proto[*wrapperspb.StringValue]().Decode([]byte("\x0a\x07secret\xff"))), new(error))
	check("a codec of the user's", fmt.Errorf("no such thing: %q", "secret"), new(error))
	_, err := JSON[int8]().Decode([]byte("4711"))
	const want = `codec: value of "a/b" at revision 7 does not decode: decoding JSON: number does not fit int8 after 4 bytes`
	if got := (&Error{"a/b", 7, err}).Error(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestConcurrent(t *testing.T) {
	concurrently(t, JSON[user](), func(a, b user) bool { return reflect.DeepEqual(instants(a), instants(b)) }, someUser())
	concurrently(t, Msgpack[user](), func(a, b user) bool { return reflect.DeepEqual(instants(a), instants(b)) }, someUser())
	concurrently(t, Proto[*structpb.Struct](), func(a, b *structpb.Struct) bool { return proto.Equal(a, b) }, someStruct(t))
	concurrently(t, Bytes(), bytes.Equal, []byte("abc"))
}

func concurrently[T any](t *testing.T, c Codec[T], equal func(a, b T) bool, v T) {
	t.Helper()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			var buf []byte
			for range 50 {
				var err error
				if buf, err = c.Append(buf[:0], v); err != nil {
					t.Error(err)
					return
				}
				if got, err := c.Decode(buf); err != nil || !equal(got, v) {
					t.Errorf("got %+v, %v", got, err)
					return
				}
				c.Decode(buf[:len(buf)/2]) // an error must not spoil the pool
			}
		})
	}
	wg.Wait()
}
