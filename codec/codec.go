// Package codec turns values of a Go type into the bytes that a store keeps, and back.
//
//	codec.JSON[User]()        any type that encoding/json takes
//	codec.Msgpack[User]()     any type that vmihailenco/msgpack takes
//	codec.Proto[*pb.User]()   a generated protobuf message
//	codec.String()            the bytes of a string
//	codec.Bytes()             the bytes themselves
//
// The bytes are the plain encoding: no header, no version, nothing that another program would have to know. Give a
// stored type room to grow as its format asks for it: all three structured codecs ignore fields that they do not know
// and leave fields that are missing at their zero value. JSON and msgpack lose an unknown field when the value is
// written back; protobuf keeps it.
//
// A codec of your own needs two methods, and may have a third:
//
//	New() T // a fresh value for Modify with Upsert, where T's zero value is of no use: a nil pointer, a nil map
//
// All codecs of this package are safe for concurrent use, and their encoding of a value is deterministic in one build
// of the program, except for a msgpack map whose type is none of map[string]string, map[string]bool and map[string]any.
package codec

import (
	"fmt"
	"reflect"
	"slices"
)

// Codec encodes and decodes values of type T. Implementations MUST be safe for concurrent use.
type Codec[T any] interface {
	// Append appends the encoding of v to dst and returns the extended slice. It MUST NOT keep dst or change what is in
	// it. With an error it returns dst as it was.
	Append(dst []byte, v T) ([]byte, error)

	// Decode returns the value that src encodes. It MUST NOT keep src or a part of it, nor change it: src belongs to the
	// caller, who may reuse it. What follows a complete value is an error.
	Decode(src []byte) (T, error)
}

// Error is a value that does not decode. It is reported for its one entry or event; a list or a watch goes on.
//
// Its text never contains the value or a part of it, since errors end up in logs: of a cause that it does not know it
// gives the type only. Unwrap returns the cause itself, whose text may quote the value.
type Error struct {
	Key      string
	Revision uint64
	Err      error
}

func (e *Error) Error() string {
	return fmt.Sprintf("codec: value of %q at revision %d does not decode: %s", e.Key, e.Revision, describe(e.Err))
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// failure is an error of one of our codecs. Like Error it does not quote the value.
type failure struct {
	doing string
	err   error
}

func (f *failure) Error() string { return "codec: " + describe(f) }
func (f *failure) Unwrap() error { return f.err }

// Bytes returns the codec of raw values. Decode returns a copy, which is never nil: nil and empty are one value.
func Bytes() Codec[[]byte] { return bytesCodec{} }

type bytesCodec struct{}

func (bytesCodec) Append(dst, v []byte) ([]byte, error) { return append(dst, v...), nil }

func (bytesCodec) Decode(src []byte) ([]byte, error) {
	if len(src) == 0 {
		return []byte{}, nil
	}
	return slices.Clone(src), nil
}

// String returns the codec of strings. A string holds any bytes; it need not be UTF-8.
func String() Codec[string] { return stringCodec{} }

type stringCodec struct{}

func (stringCodec) Append(dst []byte, v string) ([]byte, error) { return append(dst, v...), nil }
func (stringCodec) Decode(src []byte) (string, error)           { return string(src), nil }

// appender is the io.Writer through which a library's encoder appends to a slice.
type appender struct{ buf []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.buf = append(a.buf, p...)
	return len(p), nil
}

func (a *appender) WriteByte(c byte) error {
	a.buf = append(a.buf, c)
	return nil
}

// byAddress reports whether an encoder has to be given a pointer to a T: where T, or a field or element of it, may have
// methods of its pointer, which libraries do not find on a value that has no address. encoding/json then writes
// something else without a word, {} for a big.Int, and msgpack refuses.
func byAddress[T any]() bool {
	t := reflect.TypeFor[T]()
	switch t.Kind() {
	case reflect.Pointer, reflect.Interface:
		return false
	case reflect.Struct, reflect.Array:
		return true
	}
	return t.PkgPath() != "" // a type that was declared, and so may have methods
}

// fresh returns a T that can be filled in: for a pointer or a map type a new one, else the zero value.
func fresh[T any]() T {
	var zero T
	switch t := reflect.TypeFor[T](); t.Kind() {
	case reflect.Pointer:
		return reflect.New(t.Elem()).Interface().(T)
	case reflect.Map:
		return reflect.MakeMap(t).Interface().(T)
	}
	return zero
}
