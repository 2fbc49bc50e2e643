package boltkv

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/polykv/kv/backend"
)

// generation tells who has written to the bucket from a revision on: every
// engine that writes adds one at its first write. The list serves two ends.
//
// Resume tokens name their generation, so that a token of a time that the file
// does not know, because it was restored from a backup, is told from one of its
// own past (R10, R21).
//
// And an engine that finds another's generation at the end of the list knows
// that a second store was opened on its bucket, of whose locks and watchers it
// knows nothing. It gives up instead of going on at cross purposes.
type generation struct {
	id    uint64
	start backend.Revision // its writes are above
}

// keptGenerations bounds the list. Tokens that are older have no history left.
const keptGenerations = 256

func newGeneration() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:])
}

func (g generation) epoch() string { return strconv.FormatUint(g.id, 36) }

// past returns all generations that are kept.
func (b buckets) past() (list []generation, err error) {
	if b.meta == nil {
		return nil, nil
	}
	err = b.generations().ForEach(func(_, v []byte) error {
		if len(v) != 16 {
			return fmt.Errorf("%w: a generation of %d bytes", backend.ErrCorrupt, len(v))
		}
		list = append(list, generation{
			binary.BigEndian.Uint64(v), backend.Revision(binary.BigEndian.Uint64(v[8:])),
		})
		return nil
	})
	return list, err
}

// claim adds g to the list.
func (t *table) claim(g generation) error {
	list := t.generations()
	n, err := list.NextSequence()
	if err != nil {
		return t.write(err)
	}
	v := binary.BigEndian.AppendUint64(nil, g.id)
	v = binary.BigEndian.AppendUint64(v, uint64(g.start))
	if err := t.write(list.Put(binary.BigEndian.AppendUint64(nil, n), v)); err != nil {
		return err
	}
	if n > keptGenerations {
		if err := t.write(list.Delete(binary.BigEndian.AppendUint64(nil, n-keptGenerations))); err != nil {
			return err
		}
	}
	t.sides.owner, t.sides.dirty = g.id, true
	return nil
}

// known reports whether a token of epoch and rev is of the past that list
// tells: a revision of a generation is at most the start of the next one. It
// may be below the generation's own start, where a watch told of what was
// before it.
func known(list []generation, epoch string, rev backend.Revision) bool {
	for i, g := range list {
		if g.epoch() == epoch {
			return i == len(list)-1 || rev <= list[i+1].start
		}
	}
	return false
}
