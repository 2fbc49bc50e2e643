package etcdkv

import (
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/polykv/kv/backend"
)

// position is how far a watch has delivered.
//
// It is never the revision in a response's header: a watch that catches up gets
// batches that carry the store's current one. And a revision alone is not
// enough. A transaction makes several events of one revision, and the reader
// may stop between them. Nor does it tell whether the cluster is the one that
// it was: one that was restored from a backup has the same ID if it was given
// the same member names, and soon reaches the same revisions. So the last event
// is read again when a watch resumes after it, and has to be the same.
type position struct {
	rev  int64  // everything before it was delivered, and of it:
	seen int    // so many events; 0: all
	sum  uint32 // of the last of them
	term uint64 // the raft term at the time: a restored cluster starts again at a low one
}

// start is the revision from which a watch resumes.
func (p position) start() int64 {
	if p.seen > 0 {
		return p.rev
	}
	return p.rev + 1
}

// next is the position after ev, the next event in the stream.
func (p position) next(ev *mvccpb.Event) position {
	seen := 1
	if p.seen > 0 && ev.Kv.ModRevision == p.rev {
		seen = p.seen + 1
	}
	return position{rev: ev.Kv.ModRevision, seen: seen, sum: digest(ev), term: p.term}
}

// digest tells an event from one that another history has at its place.
func digest(ev *mvccpb.Event) uint32 {
	kv := ev.Kv
	sum := crc32.Update(uint32(ev.Type), castagnoli, kv.Key)
	sum = crc32.Update(sum, castagnoli, kv.Value)
	for _, n := range [...]int64{kv.CreateRevision, kv.Version, kv.Lease} {
		var b [8]byte
		for i := range b {
			b[i] = byte(n >> (8 * i))
		}
		sum = crc32.Update(sum, castagnoli, b[:])
	}
	return sum
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// token prints p for a watch of one scope, in one cluster.
func (p position) token(epoch string, scope backend.Scope) backend.Token {
	var buf [48]byte
	b := strconv.AppendUint(buf[:0], p.term, 36)
	if p.seen > 0 {
		b = append(b, '.')
		b = strconv.AppendInt(b, int64(p.seen), 36)
		b = append(b, '.')
		b = strconv.AppendUint(b, uint64(p.sum), 36)
	}
	return backend.Position{
		Store: name, Epoch: epoch, Scope: scope, Revision: backend.Revision(p.rev), Extra: string(b),
	}.Token()
}

// parseToken is the inverse of token. The caller compares the epoch.
func parseToken(t backend.Token, scope backend.Scope) (p position, epoch string, err error) {
	at, err := backend.ParseToken(t, name, scope)
	if err != nil {
		return p, "", err
	}
	f := strings.Split(at.Extra, ".")
	term, err := strconv.ParseUint(f[0], 36, 64)
	p = position{rev: int64(at.Revision), term: term}
	if err == nil && len(f) == 3 {
		var seen int64
		var sum uint64
		seen, err = strconv.ParseInt(f[1], 36, 32)
		if err == nil {
			sum, err = strconv.ParseUint(f[2], 36, 32)
		}
		p.seen, p.sum = int(seen), uint32(sum)
	}
	if err != nil || len(f) == 2 || len(f) > 3 || p.seen < 0 || p.rev <= 0 {
		return p, "", fmt.Errorf("%w: malformed resume token", backend.ErrInvalid)
	}
	return p, at.Epoch, nil
}

func epochOf(cluster uint64) string { return strconv.FormatUint(cluster, 16) }
