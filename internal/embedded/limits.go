package embedded

import (
	"fmt"

	"github.com/polykv/kv/backend"
)

// Limits are sizes in bytes that a store refuses to exceed.
type Limits struct {
	Key, Value, Txn int
}

// CheckKey answers ErrInvalidKey to a key that is too long.
func (l Limits) CheckKey(key string) error {
	if len(key) > l.Key {
		return fmt.Errorf("%w: %d bytes, the limit is %d", backend.ErrInvalidKey, len(key), l.Key)
	}
	return nil
}

// CheckWrite is CheckKey, and ErrTooLarge for the value.
func (l Limits) CheckWrite(key string, value []byte) error {
	if len(value) > l.Value {
		return fmt.Errorf("%w: value of %d bytes, the limit is %d", backend.ErrTooLarge, len(value), l.Value)
	}
	return l.CheckKey(key)
}

// CheckTxn is CheckWrite for each part of t, and ErrTooLarge for the whole.
func (l Limits) CheckTxn(t backend.Txn) error {
	n := 0
	for _, c := range t.Checks {
		n += len(c.Key)
		if c.If == backend.LockHeld {
			continue
		}
		if err := l.CheckKey(c.Key); err != nil {
			return err
		}
	}
	for _, w := range t.Writes {
		n += len(w.Key) + len(w.Value)
		if err := l.CheckWrite(w.Key, w.Value); err != nil {
			return err
		}
	}
	if n > l.Txn {
		return fmt.Errorf("%w: transaction of %d bytes, the limit is %d", backend.ErrTooLarge, n, l.Txn)
	}
	return nil
}
