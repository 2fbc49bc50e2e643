package codec

import (
	"errors"
	"math/big"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

// level has its encodings on the pointer, as many types do.
type level int

var levels = []string{"low", "high"}

func (l *level) MarshalText() ([]byte, error) { return []byte(levels[*l]), nil }

func (l *level) UnmarshalText(text []byte) error {
	for i, name := range levels {
		if name == string(text) {
			*l = level(i)
			return nil
		}
	}
	return errors.New("no such level")
}

func (l *level) EncodeMsgpack(e *msgpack.Encoder) error { return e.EncodeString(levels[*l]) }

func (l *level) DecodeMsgpack(d *msgpack.Decoder) error {
	text, err := d.DecodeString()
	if err != nil {
		return err
	}
	return l.UnmarshalText([]byte(text))
}

// Methods of a pointer are called for a value, for its fields and its elements.
func TestMethodsOfPointers(t *testing.T) {
	structured(t, func(t *testing.T, c Codec[level]) {
		if src := encode(t, c, 1); len(src) < len("high") {
			t.Errorf("encoded as %q, without the type's method", src)
		}
		if got := roundTrip(t, c, 1); got != 1 {
			t.Errorf("1 came back as %d", got)
		}
	})
	structured(t, func(t *testing.T, c Codec[big.Int]) {
		if got := roundTrip(t, c, *big.NewInt(42)); got.Int64() != 42 {
			t.Errorf("42 came back as %v", &got)
		}
	})
	type account struct {
		Level   level
		Balance big.Int
		History [2]level
	}
	structured(t, func(t *testing.T, c Codec[account]) {
		got := roundTrip(t, c, account{1, *big.NewInt(42), [2]level{1, 0}})
		if got.Level != 1 || got.Balance.Int64() != 42 || got.History != [2]level{1, 0} {
			t.Errorf("came back as %d, %v, %v", got.Level, &got.Balance, got.History)
		}
	})
}
