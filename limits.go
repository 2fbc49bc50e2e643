package kv

import (
	"fmt"
	"time"

	"github.com/polykv/kv/backend"
)

// The smallest limits of all stores in their stock configuration, which
// Portable enforces anywhere.
const (
	// PortableMaxKeyBytes leaves every store's escaping and root room.
	PortableMaxKeyBytes = 1 << 10
	// PortableMaxValueBytes and PortableMaxTxnBytes are Consul's: a request
	// of 512 KiB of JSON, in which values stand in base64.
	PortableMaxValueBytes = 360 << 10
	PortableMaxTxnBytes   = 360 << 10
	// PortableMinLease is Consul's too: twice its shortest session.
	PortableMinLease = 20 * time.Second
)

func portable(c Capabilities) Capabilities {
	c.MaxKeyBytes = min(c.MaxKeyBytes, PortableMaxKeyBytes)
	c.MaxValueBytes = min(c.MaxValueBytes, PortableMaxValueBytes)
	c.MaxTxnBytes = min(c.MaxTxnBytes, PortableMaxTxnBytes)
	c.MinLease = max(c.MinLease, PortableMinLease)
	return c
}

func (c *core) maxKeyBytes() int {
	n := c.b.Capabilities().MaxKeyBytes
	if c.portable {
		n = min(n, PortableMaxKeyBytes)
	}
	return n
}

// checkValue refuses a value over the limit before any I/O. Drivers check
// their native encoding again.
func (c *core) checkValue(value []byte) error {
	most := c.b.Capabilities().MaxValueBytes
	if c.portable {
		most = min(most, PortableMaxValueBytes)
	}
	if len(value) > most {
		return fmt.Errorf("%w: a value of %d bytes, at most %d", ErrTooLarge, len(value), most)
	}
	return nil
}

// checkTTL refuses a TTL that the store would not keep to.
func (c *core) checkTTL(d time.Duration) error {
	if least := c.b.Capabilities().MinTTL; d < least {
		return fmt.Errorf("%w: a TTL of %v, at least %v", ErrInvalid, d, least)
	}
	if d > backend.MaxTTL {
		return fmt.Errorf("%w: a TTL of %v, at most %v", ErrInvalid, d, backend.MaxTTL)
	}
	return nil
}

// checkTxn refuses a transaction that some store could not take (R27).
func (c *core) checkTxn(t backend.Txn) error {
	if n := len(t.Checks) + len(t.Writes); n > backend.MaxTxnOps {
		return fmt.Errorf("%w: a transaction of %d operations, at most %d", ErrTooLarge, n, backend.MaxTxnOps)
	}
	most, size := c.b.Capabilities().MaxTxnBytes, 0
	if c.portable {
		most = min(most, PortableMaxTxnBytes)
	}
	for _, ch := range t.Checks {
		size += len(ch.Key)
	}
	for _, w := range t.Writes {
		size += len(w.Key) + len(w.Value)
	}
	if size > most {
		return fmt.Errorf("%w: a transaction of %d bytes, at most %d", ErrTooLarge, size, most)
	}
	return nil
}
