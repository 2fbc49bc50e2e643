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

func parseGenerations(b []byte) ([]generation, error) {
	if len(b)%16 != 0 {
		return nil, fmt.Errorf("%w: a list of generations of %d bytes", backend.ErrCorrupt, len(b))
	}
	list := make([]generation, 0, len(b)/16+1)
	for ; len(b) > 0; b = b[16:] {
		list = append(list, generation{
			binary.BigEndian.Uint64(b), backend.Revision(binary.BigEndian.Uint64(b[8:])),
		})
	}
	return list, nil
}

func appendGenerations(b []byte, list []generation) []byte {
	for _, g := range list[max(0, len(list)-keptGenerations):] {
		b = binary.BigEndian.AppendUint64(b, g.id)
		b = binary.BigEndian.AppendUint64(b, uint64(g.start))
	}
	return b
}

// lastGeneration is the id at the end of the encoded list; 0 for none.
func lastGeneration(b []byte) uint64 {
	if len(b) < 16 {
		return 0
	}
	return binary.BigEndian.Uint64(b[len(b)-16:])
}

// known reports whether a token of epoch and rev is of the past that list
// tells: a revision of a generation is at most the start of the next one.
func known(list []generation, epoch string, rev backend.Revision) bool {
	for i, g := range list {
		if g.epoch() == epoch {
			return rev >= g.start && (i == len(list)-1 || rev <= list[i+1].start)
		}
	}
	return false
}
