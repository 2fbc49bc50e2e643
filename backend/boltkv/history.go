package boltkv

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

// History keeps changes in the file, so that a watch can be resumed by another
// process, or one that was started again, and so that a slow reader falls back
// to the file instead of losing its place. The zero value keeps what the
// defaults say. A change leaves as soon as one bound is reached; each is
// enforced when something is written.
//
// It about triples what a write puts into the file: the new and the previous
// value are kept with the change.
type History struct {
	MaxAge     time.Duration // 0: 24 hours
	MaxChanges int           // commits, each of one or more keys; 0: 100,000
	MaxBytes   int64         // keys and values; 0: 64 MiB
}

func (h *History) withDefaults() *History {
	if h == nil {
		return nil
	}
	w := *h
	if w.MaxAge <= 0 {
		w.MaxAge = 24 * time.Hour
	}
	if w.MaxChanges <= 0 {
		w.MaxChanges = 100_000
	}
	if w.MaxBytes <= 0 {
		w.MaxBytes = 64 << 20
	}
	return &w
}

// The history bucket holds one value for each commit, under its revision of
// eight bytes, and kept under summaryKey, which is longer and comes after them.
var summaryKey = []byte("\xff\xff\xff\xff\xff\xff\xff\xffkept")

// kept is what is in the history.
type kept struct {
	floor   backend.Revision // every commit above it is there
	commits int64
	bytes   int64
}

func parseKept(b []byte) (k kept, err error) {
	if b == nil {
		return k, nil
	}
	if len(b) != 24 {
		return k, fmt.Errorf("%w: a summary of the history of %d bytes", backend.ErrCorrupt, len(b))
	}
	k.floor = backend.Revision(binary.BigEndian.Uint64(b))
	k.commits = int64(binary.BigEndian.Uint64(b[8:]))
	k.bytes = int64(binary.BigEndian.Uint64(b[16:]))
	return k, nil
}

func (k kept) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(k.floor))
	b = binary.BigEndian.AppendUint64(b, uint64(k.commits))
	return binary.BigEndian.AppendUint64(b, uint64(k.bytes))
}

func historyKey(rev backend.Revision) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(rev))
}

// lastRevision is the last one in the history; 0 for none.
func lastRevision(c *bbolt.Cursor) backend.Revision {
	k, _ := c.Seek(summaryKey)
	if k == nil {
		k, _ = c.Last()
	} else {
		k, _ = c.Prev()
	}
	if len(k) != 8 {
		return 0
	}
	return backend.Revision(binary.BigEndian.Uint64(k))
}

// record adds the commits of t to the history and lets go of what is too old.
func (e *engine) record(t *table) error {
	h := e.o.History
	commits := t.step.Commits
	if h == nil || len(commits) == 0 {
		return nil
	}
	k, err := parseKept(t.history().Get(summaryKey))
	if err != nil {
		return err
	}
	// Revisions are given to commits without a hole. If the last one before
	// these is not there, something was written while no history was kept.
	before := commits[0].Revision - 1
	if last := lastRevision(t.history().Cursor()); max(last, k.floor) != before {
		if err := t.forgetHistory(); err != nil {
			return err
		}
		k = kept{floor: before}
	}
	for _, c := range commits {
		b := appendCommit(nil, c, t.step.Now)
		if err := t.write(t.history().Put(historyKey(c.Revision), b)); err != nil {
			return err
		}
		k.commits++
		k.bytes += int64(len(b))
	}
	if err := t.trim(h, &k); err != nil {
		return err
	}
	return t.write(t.history().Put(summaryKey, k.append(nil)))
}

func (t *table) forgetHistory() error {
	c := t.history().Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.First() {
		if err := t.write(c.Delete()); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) trim(h *History, k *kept) error {
	oldest := t.step.Now.Add(-h.MaxAge).UnixMilli()
	var gone [][]byte
	c := t.history().Cursor()
	for key, v := c.First(); len(key) == 8; key, v = c.Next() {
		if len(v) < 8 {
			return fmt.Errorf("%w: a change of %d bytes in the history", backend.ErrCorrupt, len(v))
		}
		at := int64(binary.BigEndian.Uint64(v))
		if at >= oldest && k.commits <= int64(h.MaxChanges) && k.bytes <= h.MaxBytes {
			break
		}
		k.floor = backend.Revision(binary.BigEndian.Uint64(key))
		k.commits--
		k.bytes -= int64(len(v))
		gone = append(gone, append([]byte(nil), key...))
	}
	for _, key := range gone {
		if err := t.write(t.history().Delete(key)); err != nil {
			return err
		}
	}
	return nil
}

// historyBytes bounds what is read from the history at once.
const historyBytes = 256 << 10

// replay reads commits above rev from the history.
func (e *engine) replay(ctx context.Context, rev backend.Revision) (commits []*embedded.Commit, err error) {
	st, err := e.load(ctx)
	if err != nil {
		return nil, err
	}
	tx, err := e.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer rollback(tx)
	defer func() { err = classify(err) }()
	defer rescue(&err)
	b := e.layout.open(tx)
	lost := fmt.Errorf("%w: what followed revision %d is no longer kept", backend.ErrHistoryLost, rev)
	if b.meta == nil {
		return nil, lost
	}
	if err := e.awaitPublished(ctx, st, b); err != nil {
		return nil, err
	}
	k, err := parseKept(b.history().Get(summaryKey))
	if err != nil {
		return nil, err
	}
	c := b.history().Cursor()
	if k.floor == 0 || rev < k.floor || lastRevision(c) != b.revision() {
		return nil, lost
	}
	bytes := 0
	for key, v := c.Seek(historyKey(rev + 1)); len(key) == 8 && bytes < historyBytes; key, v = c.Next() {
		commit, err := parseCommit(backend.Revision(binary.BigEndian.Uint64(key)), v)
		if err != nil {
			return nil, err
		}
		commits = append(commits, commit)
		bytes += len(v)
	}
	if len(commits) == 0 {
		return nil, lost
	}
	return commits, nil
}

// A commit is its time in ms, and then for each change: the kind and flags, the
// key, the record and the one before it, as varints and counted bytes.
const (
	flagPrevLost = 1 << 4
	flagAdopted  = 1 << 5
)

func appendCommit(b []byte, c *embedded.Commit, now time.Time) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(now.UnixMilli()))
	for i := range c.Changes {
		ch := &c.Changes[i]
		kind := byte(ch.Kind)
		if ch.PrevLost {
			kind |= flagPrevLost
		}
		if ch.Adopted {
			kind |= flagAdopted
		}
		b = append(b, kind)
		b = appendBytes(b, []byte(ch.Key))
		b = appendSide(b, ch.Record)
		b = appendSide(b, ch.Prev)
	}
	return b
}

func appendSide(b []byte, r embedded.Record) []byte {
	b = binary.AppendUvarint(b, uint64(r.Revision))
	b = binary.AppendUvarint(b, uint64(r.Created))
	b = binary.AppendUvarint(b, uint64(r.Deadline))
	b = binary.AppendUvarint(b, uint64(r.Lease))
	return appendBytes(b, r.Value)
}

func appendBytes(b, v []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

var errShort = errors.New("a change in the history ends early")

// reader takes a commit apart.
type reader struct {
	b   []byte
	err error
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.err, r.b = errShort, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.err, r.b = errShort, nil
		return nil
	}
	v := append([]byte(nil), r.b[:n]...)
	r.b = r.b[n:]
	return v
}

func (r *reader) side() embedded.Record {
	return embedded.Record{
		Revision: backend.Revision(r.uvarint()),
		Created:  backend.Revision(r.uvarint()),
		Deadline: int64(r.uvarint()),
		Lease:    backend.Revision(r.uvarint()),
		Value:    r.bytes(),
	}
}

func parseCommit(rev backend.Revision, b []byte) (*embedded.Commit, error) {
	c := &embedded.Commit{Revision: rev}
	if len(b) < 8 {
		return nil, backend.Because(backend.ErrCorrupt, errShort)
	}
	r := reader{b: b[8:]}
	for len(r.b) > 0 {
		kind := r.b[0]
		r.b = r.b[1:]
		c.Changes = append(c.Changes, embedded.Change{
			Kind:     backend.Kind(kind & 0xf),
			PrevLost: kind&flagPrevLost != 0,
			Adopted:  kind&flagAdopted != 0,
			Key:      string(r.bytes()),
			Record:   r.side(),
			Prev:     r.side(),
		})
		if r.err != nil {
			return nil, backend.Because(backend.ErrCorrupt, r.err)
		}
	}
	return c, nil
}
