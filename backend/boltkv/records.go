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
	err = r.parse(b)
	return r, err
}

// parse sets all of r but its value.
func (r *record) parse(b []byte) error {
	r.Deadline, r.Lease = 0, 0
	if len(b) < 6 {
		return errRecord
	}
	r.sum = binary.BigEndian.Uint32(b)
	revision, n := binary.Uvarint(b[4:])
	age, m := binary.Uvarint(b[4+max(n, 0):])
	if n <= 0 || m <= 0 || revision == 0 || age >= revision {
		return errRecord
	}
	r.Revision, r.Created = backend.Revision(revision), backend.Revision(revision-age)
	if b = b[4+n+m:]; len(b) == 0 {
		return nil
	}
	deadline, n := binary.Uvarint(b)
	lease, m := binary.Uvarint(b[max(n, 0):])
	if n <= 0 || m <= 0 || n+m < len(b) || int64(deadline) <= 0 {
		return errRecord
	}
	r.Deadline, r.Lease = int64(deadline), backend.Revision(lease)
	return nil
}

var errRecord = fmt.Errorf("%w: a record that makes no sense", backend.ErrCorrupt)

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

// sideWalker walks over the records of a view in the order of keys.
type sideWalker struct {
	k, v   []byte // where it is; k is nil at the end
	bucket walker
	list   []recent
	i      int
	moves  uint8 // what stands at k
}

const (
	bucketMoves = 1 << iota
	listMoves
)

func (w *sideWalker) open(v *view) (err error) {
	w.bucket.open(v.records)
	w.list, err = parseRecent(v.recent)
	return err
}

func (w *sideWalker) seek(key string) {
	w.bucket.seek(key)
	w.i, _ = slices.BinarySearchFunc(w.list, readOnly(key), func(r recent, key []byte) int { return bytes.Compare(r.key, key) })
	w.settle()
}

func (w *sideWalker) next() {
	if w.moves&bucketMoves != 0 {
		w.bucket.next()
	}
	if w.moves&listMoves != 0 {
		w.i++
	}
	w.settle()
}

// settle takes the lesser of the two, what was gathered before what is in the
// bucket, and passes over what is gone.
func (w *sideWalker) settle() {
	for {
		w.k, w.v, w.moves = w.bucket.k, w.bucket.v, bucketMoves
		if w.i == len(w.list) {
			return
		}
		r := w.list[w.i]
		order := -1
		if w.k != nil {
			order = bytes.Compare(r.key, w.k)
		}
		switch {
		case order > 0:
			return
		case order < 0:
			w.moves = listMoves
		default:
			w.moves = bucketMoves | listMoves
		}
		if w.k, w.v = r.key, r.side; len(w.v) > 0 {
			return
		}
		w.i++
		if order == 0 {
			w.bucket.next()
		}
	}
}
