package boltkv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/embedded"
)

// What the library knows of a key stands beside its value: a record in a
// bucket of its own. To write there at each put would cost another path of
// pages to the disk. So the latest records are gathered in one value of the
// bookkeeping bucket, which is so small that bbolt keeps it within the page of
// its parent, and that page is written by every commit anyway. When the
// gathered records get too many they are moved to their bucket together.

// record is what is known of a key.
type record struct {
	embedded.Record        // without Value
	sum             uint32 // of the value, to notice what others write over it
}

// maxRecord bounds the encoded form: the checksum, then as varints the
// revision, how far below it the key was created and, for a key that expires,
// the deadline and the lease. It is kept short for the sake of the gathering.
const maxRecord = 4 + 4*binary.MaxVarintLen64

func (r record) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, r.sum)
	b = binary.AppendUvarint(b, uint64(r.Revision))
	b = binary.AppendUvarint(b, uint64(r.Revision-r.Created))
	if r.Deadline != 0 {
		b = binary.AppendUvarint(b, uint64(r.Deadline))
		b = binary.AppendUvarint(b, uint64(r.Lease))
	}
	return b
}

func parseRecord(b []byte) (r record, err error) {
	damaged := len(b) < 4
	if !damaged {
		r.sum, b = binary.BigEndian.Uint32(b), b[4:]
	}
	next := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			damaged, b = true, nil
			return 0
		}
		b = b[n:]
		return v
	}
	r.Revision = backend.Revision(next())
	r.Created = r.Revision - backend.Revision(next())
	if len(b) > 0 {
		r.Deadline = int64(next())
		r.Lease = backend.Revision(next())
		damaged = damaged || r.Deadline <= 0
	}
	if damaged || len(b) > 0 || r.Revision == 0 || r.Created == 0 || r.Created > r.Revision {
		return record{}, fmt.Errorf("%w: a record that makes no sense", backend.ErrCorrupt)
	}
	return r, nil
}

// recent is a gathered record: the key, and the encoded record or, for a key
// that is gone, nothing. The encoded form is both, each after its length in
// two bytes.
type recent struct {
	key, side []byte
}

// nextRecent takes the first one off the encoded form.
func nextRecent(b []byte) (r recent, rest []byte, err error) {
	for _, field := range []*[]byte{&r.key, &r.side} {
		n, width := binary.Uvarint(b)
		if width <= 0 || n > uint64(len(b)-width) {
			return r, nil, fmt.Errorf("%w: the latest records end early", backend.ErrCorrupt)
		}
		b = b[width:]
		*field, b = b[:n:n], b[n:]
	}
	return r, b, nil
}

func (r recent) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(r.key)))
	b = append(b, r.key...)
	b = binary.AppendUvarint(b, uint64(len(r.side)))
	return append(b, r.side...)
}

// size is that of the encoded form; the lengths of what fits are two bytes at most.
func (r recent) size() int { return 4 + len(r.key) + len(r.side) }

// parseRecent returns the gathered records, which are in the order of their
// keys, without copying them.
func parseRecent(b []byte) (list []recent, err error) {
	list = make([]recent, 0, len(b)/32+1)
	for len(b) > 0 {
		var r recent
		if r, b, err = nextRecent(b); err != nil {
			return nil, err
		}
		if n := len(list); n > 0 && bytes.Compare(list[n-1].key, r.key) >= 0 {
			return nil, fmt.Errorf("%w: the latest records are out of order", backend.ErrCorrupt)
		}
		list = append(list, r)
	}
	return list, nil
}

// sideOf returns the encoded record of key as v sees it, nil if there is none.
func (v *view) sideOf(key []byte) ([]byte, error) {
	for rest := v.recent; len(rest) > 0; {
		var r recent
		var err error
		if r, rest, err = nextRecent(rest); err != nil {
			return nil, err
		}
		if bytes.Equal(r.key, key) {
			if len(r.side) == 0 {
				return nil, nil
			}
			return r.side, nil
		}
	}
	if v.records == nil {
		return nil, nil
	}
	return v.records.Get(key), nil
}

// recordWriter changes records in a write transaction.
type recordWriter struct {
	buckets
	bucket *bbolt.Bucket // of the records; nil until it is needed
	list   []recent      // gathered, unless spilt
	bytes  int
	limit  int
	spilt  bool // everything goes to the bucket
	dirty  bool
}

// recordWriter returns one for records of at most limit bytes gathered.
func (b buckets) recordWriter(limit int) (w recordWriter, err error) {
	w = recordWriter{buckets: b, limit: limit}
	// The value is copied, because bbolt may move it when it is replaced.
	w.list, err = parseRecent(bytes.Clone(b.recent))
	for _, r := range w.list {
		w.bytes += r.size()
	}
	return w, err
}

func (w *recordWriter) find(key []byte) (int, bool) {
	return slices.BinarySearchFunc(w.list, key, func(r recent, key []byte) int { return bytes.Compare(r.key, key) })
}

// get returns the encoded record of key, nil if there is none.
func (w *recordWriter) get(key []byte) []byte {
	if i, ok := w.find(key); ok {
		if len(w.list[i].side) == 0 {
			return nil
		}
		return w.list[i].side
	}
	return w.open().Get(key)
}

func (w *recordWriter) open() *bbolt.Bucket {
	if w.bucket == nil {
		w.bucket = w.records()
	}
	return w.bucket
}

// put sets the record of key, or removes it for a nil side.
func (w *recordWriter) put(key string, side []byte) error {
	w.dirty = true
	if !w.spilt {
		if i, ok := w.find(readOnly(key)); ok {
			w.bytes += len(side) - len(w.list[i].side)
			w.list[i].side = side
		} else {
			r := recent{[]byte(key), side}
			w.list = slices.Insert(w.list, i, r)
			w.bytes += r.size()
		}
		if w.bytes <= w.limit {
			return nil
		}
		return w.spill()
	}
	return w.putDirectly(recent{readOnly(key), side})
}

func (w *recordWriter) putDirectly(r recent) error {
	if len(r.side) == 0 {
		return w.open().Delete(r.key)
	}
	return w.open().Put(r.key, r.side)
}

// spill moves all that was gathered to the bucket.
func (w *recordWriter) spill() error {
	w.spilt = true
	for _, r := range w.list {
		if err := w.putDirectly(r); err != nil {
			return err
		}
	}
	w.list, w.bytes = nil, 0
	return nil
}

// latest returns the record of key if it was gathered.
func (w *recordWriter) latest(key string) (record, bool) {
	i, ok := w.find(readOnly(key))
	if !ok || len(w.list[i].side) == 0 {
		return record{}, false
	}
	r, err := parseRecord(w.list[i].side)
	return r, err == nil
}

// store writes what is gathered.
func (w *recordWriter) store() error {
	if !w.dirty {
		return nil
	}
	b := make([]byte, 0, 8+w.bytes)
	b = binary.BigEndian.AppendUint64(b, w.owner)
	for _, r := range w.list {
		b = r.append(b)
	}
	return w.meta.Put([]byte(recentKey), b)
}

// sideWalker walks over the records of a transaction in the order of keys.
type sideWalker struct {
	walker
	list []recent
	i    int
	k, v []byte // where it is; k is nil at the end
}

func (w *sideWalker) open(b buckets) (err error) {
	if b.meta != nil {
		w.walker.open(b.records())
	}
	w.list, err = parseRecent(b.recent)
	return err
}

func (w *sideWalker) seek(key string) {
	w.walker.seek(key)
	w.i, _ = slices.BinarySearchFunc(w.list, []byte(key), func(r recent, key []byte) int { return bytes.Compare(r.key, key) })
	w.settle()
}

func (w *sideWalker) next() {
	if bytes.Equal(w.k, w.walker.k) {
		w.walker.next()
	}
	if w.i < len(w.list) && bytes.Equal(w.k, w.list[w.i].key) {
		w.i++
	}
	w.settle()
}

// settle takes the lesser of the two, what was gathered before what is in the
// bucket, and passes over what is gone.
func (w *sideWalker) settle() {
	for {
		w.k, w.v = w.walker.k, w.walker.v
		if w.i == len(w.list) {
			return
		}
		r := w.list[w.i]
		order := -1
		if w.k != nil {
			order = bytes.Compare(r.key, w.k)
		}
		if order > 0 {
			return
		}
		if w.k, w.v = r.key, r.side; len(w.v) > 0 {
			return
		}
		w.i++
		if order == 0 {
			w.walker.next()
		}
	}
}
