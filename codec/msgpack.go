package codec

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/vmihailenco/msgpack/v5"
)

// Msgpack returns the codec of vmihailenco/msgpack. Integers take the smallest form; in a T of type any they become
// int64 or uint64 and floats float64, whatever form they had. A time.Time keeps its instant and comes back in the
// local zone.
//
// The structure of the bytes is checked before the library sees them: values come from a store that others write to,
// and the library allocates what a length prefix announces and recurses as deep as the bytes say.
func Msgpack[T any]() Codec[T] { return &msgpackCodec[T]{byAddress: byAddress[T]()} }

type msgpackCodec[T any] struct {
	byAddress          bool
	encoders, decoders sync.Pool
}

type msgpackEncoder struct {
	out appender
	enc *msgpack.Encoder
}

type msgpackDecoder struct {
	in  bytes.Reader
	dec *msgpack.Decoder
}

func (c *msgpackCodec[T]) Append(dst []byte, v T) ([]byte, error) {
	e, _ := c.encoders.Get().(*msgpackEncoder)
	if e == nil {
		e = new(msgpackEncoder)
		e.enc = msgpack.NewEncoder(nil)
	}
	e.out.buf = dst
	e.enc.Reset(&e.out) // a type's EncodeMsgpack may have changed the flags
	e.enc.UseCompactInts(true)
	e.enc.SetSortMapKeys(true)
	var err error
	if c.byAddress {
		addressed := v
		err = e.enc.Encode(&addressed)
	} else {
		err = e.enc.Encode(v)
	}
	if err != nil {
		return dst, &failure{"encoding msgpack", err} // e is in an unknown state, and not used again
	}
	out := e.out.buf
	e.out.buf = nil
	c.encoders.Put(e)
	return out, nil
}

func (c *msgpackCodec[T]) Decode(src []byte) (T, error) {
	var v, zero T
	if err := checkMsgpack(src); err != nil {
		return zero, &failure{"decoding msgpack", err}
	}
	if err := c.decode(src, &v); err != nil {
		return zero, &failure{"decoding msgpack", err}
	}
	return v, nil
}

func (c *msgpackCodec[T]) decode(src []byte, v *T) (err error) {
	// The library panics on some values that do not fit: nil for a time.Time, a key that cannot be hashed for a
	// map[any]V, and it may on others. Whoever can write to the store must not be able to stop its readers.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errShape, r)
		}
	}()
	d, _ := c.decoders.Get().(*msgpackDecoder)
	if d == nil {
		d = new(msgpackDecoder)
		d.dec = msgpack.NewDecoder(nil)
	}
	d.in.Reset(src)
	d.dec.Reset(&d.in) // reads without a buffer of its own, and copies what it keeps
	d.dec.UseLooseInterfaceDecoding(true)
	if err := d.dec.Decode(v); err != nil {
		return err // d is in an unknown state, and not used again
	}
	d.in.Reset(nil)
	c.decoders.Put(d)
	return nil
}

// New returns a T that can be filled in.
func (c *msgpackCodec[T]) New() T { return fresh[T]() }
