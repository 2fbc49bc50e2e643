package codec

import (
	"encoding/json"
	"sync"
)

// JSON returns the codec of encoding/json, as in json.Marshal and json.Unmarshal of a pointer to the value, so that
// methods of pointers are called both ways. There are two differences: the characters <, > and & are stored as they are,
// and errors do not quote the value. The bytes do not end in a newline.
//
// Numbers in a T of type any become float64, which is exact up to 2^53.
func JSON[T any]() Codec[T] { return &jsonCodec[T]{byAddress: byAddress[T]()} }

type jsonCodec[T any] struct {
	byAddress bool
	encoders  sync.Pool
}

type jsonEncoder struct {
	out appender
	enc *json.Encoder
}

func (c *jsonCodec[T]) Append(dst []byte, v T) ([]byte, error) {
	e, _ := c.encoders.Get().(*jsonEncoder)
	if e == nil {
		e = new(jsonEncoder)
		e.enc = json.NewEncoder(&e.out)
		e.enc.SetEscapeHTML(false) // only an Encoder has it
	}
	e.out.buf = dst
	var err error // Encode writes once, and only a complete value
	if c.byAddress {
		addressed := v
		err = e.enc.Encode(&addressed)
	} else {
		err = e.enc.Encode(v)
	}
	out := e.out.buf
	e.out.buf = nil
	c.encoders.Put(e)
	if err != nil {
		return dst, &failure{"encoding JSON", err}
	}
	return out[:len(out)-1], nil // without Encode's newline
}

func (c *jsonCodec[T]) Decode(src []byte) (T, error) {
	var v T
	if err := json.Unmarshal(src, &v); err != nil {
		var zero T
		return zero, &failure{"decoding JSON", err}
	}
	return v, nil
}

// New returns a T that can be filled in.
func (c *jsonCodec[T]) New() T { return fresh[T]() }
