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

// Records are 20 bytes, and 36 for a key that expires.
const (
	shortRecord = 8 + 8 + 4
	longRecord  = shortRecord + 8 + 8
)

func (r record) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.Revision))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Created))
	b = binary.BigEndian.AppendUint32(b, r.sum)
	if r.Deadline != 0 {
		b = binary.BigEndian.AppendUint64(b, uint64(r.Deadline))
		b = binary.BigEndian.AppendUint64(b, uint64(r.Lease))
	}
	return b
}

func parseRecord(b []byte) (r record, err error) {
	if len(b) != shortRecord && len(b) != longRecord {
		return r, fmt.Errorf("%w: a record of %d bytes", backend.ErrCorrupt, len(b))
	}
	r.Revision = backend.Revision(binary.BigEndian.Uint64(b))
	r.Created = backend.Revision(binary.BigEndian.Uint64(b[8:]))
	r.sum = binary.BigEndian.Uint32(b[16:])
	if len(b) == longRecord {
		r.Deadline = int64(binary.BigEndian.Uint64(b[20:]))
		r.Lease = backend.Revision(binary.BigEndian.Uint64(b[28:]))
	}
	if r.Revision == 0 || r.Created == 0 || r.Created > r.Revision {
		return r, fmt.Errorf("%w: a record of revision %d, created at %d", backend.ErrCorrupt, r.Revision, r.Created)
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
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return r, nil, fmt.Errorf("%w: the latest records end early", backend.ErrCorrupt)
		}
		n := int(binary.BigEndian.Uint16(b))
		*field, b = b[2:2+n:2+n], b[2+n:]
	}
	return r, b, nil
}

func (r recent) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.key)))
	b = append(b, r.key...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.side)))
	return append(b, r.side...)
}

func (r recent) size() int { return 4 + len(r.key) + len(r.side) }

// parseRecent returns the gathered records in the order of their keys, without
// copying them.
func parseRecent(b []byte) (list []recent, err error) {
	for len(b) > 0 {
		var r recent
		if r, b, err = nextRecent(b); err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b recent) int { return bytes.Compare(a.key, b.key) })
	return list, nil
}

// sideOf returns the encoded record of key as b's transaction sees it, nil if
// there is none.
func (b buckets) sideOf(key []byte) ([]byte, error) {
	for rest := b.recent; len(rest) > 0; {
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
	if b.records == nil {
		return nil, nil
	}
	return b.records.Get(key), nil
}

// recordWriter changes records in a write transaction.
type recordWriter struct {
	bucket *bbolt.Bucket
	list   []recent // gathered, unless spilled
	bytes  int
	limit  int
	spilt  bool // everything goes to the bucket
	dirty  bool
}

// recordWriter returns one for records of at most limit bytes gathered.
func (b buckets) recordWriter(limit int) (w recordWriter, err error) {
	w = recordWriter{bucket: b.records, limit: limit, bytes: len(b.recent)}
	// The value is copied, because bbolt may move it when it is replaced.
	w.list, err = parseRecent(bytes.Clone(b.recent))
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
	return w.bucket.Get(key)
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
		return w.bucket.Delete(r.key)
	}
	return w.bucket.Put(r.key, r.side)
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

// store writes what is gathered to meta.
func (w *recordWriter) store(meta *bbolt.Bucket) error {
	if !w.dirty {
		return nil
	}
	b := make([]byte, 0, w.bytes)
	for _, r := range w.list {
		b = r.append(b)
	}
	return meta.Put([]byte(recentKey), b)
}

// sideWalker walks over the records of a transaction in the order of keys.
type sideWalker struct {
	walker
	list []recent
	i    int
	k, v []byte // where it is; k is nil at the end
}

func (w *sideWalker) open(b buckets) (err error) {
	w.walker.open(b.records)
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
