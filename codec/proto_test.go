package codec

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func someStruct(t testing.TB) *structpb.Struct {
	s, err := structpb.NewStruct(map[string]any{
		"a": 1.5, "b": "text", "c": []any{true, nil}, "d": map[string]any{"e": "f"}, "g": "h", "i": "j", "k": "l",
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestProtoRoundTrip(t *testing.T) {
	for range 20 { // map order differs from message to message
		if got, want := roundTrip(t, Proto[*structpb.Struct](), someStruct(t)), someStruct(t); !proto.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
	now := time.Now()
	if got := roundTrip(t, Proto[*timestamppb.Timestamp](), timestamppb.New(now)); !got.AsTime().Equal(now) {
		t.Errorf("got %v, want %v", got, now)
	}
	if got := roundTrip(t, Proto[*wrapperspb.BytesValue](), wrapperspb.Bytes([]byte{1, 2})); !bytes.Equal(got.Value, []byte{1, 2}) {
		t.Errorf("got %v: the bytes are those of src", got)
	}
	nested := &descriptorpb.FileDescriptorProto{
		Name: proto.String("x.proto"),
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: proto.String("M"), NestedType: []*descriptorpb.DescriptorProto{{Name: proto.String("N")}}},
		},
	}
	if got := roundTrip(t, Proto[*descriptorpb.FileDescriptorProto](), nested); !proto.Equal(got, nested) {
		t.Errorf("got %v, want %v", got, nested)
	}
}

// A nil message, the zero value and no bytes at all are one value.
func TestProtoEmpty(t *testing.T) {
	c := Proto[*wrapperspb.StringValue]()
	for _, v := range []*wrapperspb.StringValue{nil, {}} {
		if got := encode(t, c, v); len(got) != 0 {
			t.Errorf("Append(%v) = %q", v, got)
		}
	}
	if got, err := c.Decode(nil); got == nil || got.Value != "" || err != nil {
		t.Errorf("Decode(nil) = %v, %v", got, err)
	}
}

// R44: StringValue is an early version of FieldDescriptorProto, as it were: field 1 of both is a string.
func TestProtoSchemaEvolution(t *testing.T) {
	v1, v2 := Proto[*wrapperspb.StringValue](), Proto[*descriptorpb.FieldDescriptorProto]()
	want := &descriptorpb.FieldDescriptorProto{Name: proto.String("x"), Number: proto.Int32(7), JsonName: proto.String("y")}

	newer, err := v2.Decode(encode(t, v1, wrapperspb.String("x")))
	if err != nil || newer.GetName() != "x" || newer.Number != nil {
		t.Errorf("a new reader of an old value: %v, %v", newer, err)
	}
	src := encode(t, v2, want)
	older, err := v1.Decode(src)
	clear(src)
	if err != nil || older.GetValue() != "x" {
		t.Fatalf("an old reader of a new value: %v, %v", older, err)
	}
	if back, err := v2.Decode(encode(t, v1, older)); err != nil || !proto.Equal(back, want) {
		t.Errorf("unknown fields are lost when the old program writes: %v, %v", back, err)
	}
}

func TestProtoBadValues(t *testing.T) {
	c := Proto[*wrapperspb.StringValue]()
	src := encode(t, c, wrapperspb.String("hello"))
	for n := 1; n < len(src); n++ {
		if got, err := c.Decode(src[:n]); err == nil || got != nil {
			t.Errorf("cut after %d bytes: %v, %v", n, got, err)
		}
	}
	if got, err := c.Decode(append(src, 0xFF)); err == nil || got != nil {
		t.Errorf("with garbage behind it: %v, %v", got, err)
	}
	if out, err := c.Append([]byte("before"), wrapperspb.String("\xff")); err == nil || string(out) != "before" {
		t.Errorf("Append of a string that is not UTF-8 = %q, %v", out, err)
	}
	// Required fields are required in both directions.
	part := Proto[*descriptorpb.UninterpretedOption_NamePart]()
	if _, err := part.Decode(nil); err == nil {
		t.Error("a value without its required fields decodes")
	}
	if _, err := part.Append(nil, part.(interface {
		New() *descriptorpb.UninterpretedOption_NamePart
	}).New()); err == nil {
		t.Error("a message without its required fields encodes")
	}
}

// The constraint lets dynamic messages through; they are refused before anything is stored.
func TestProtoRefusesDynamicMessages(t *testing.T) {
	defer func() {
		if r, _ := recover().(string); !strings.Contains(r, "*dynamicpb.Message") {
			t.Errorf("panic %q", r)
		}
	}()
	Proto[*dynamicpb.Message]()
	t.Error("Proto[*dynamicpb.Message] returned")
}
