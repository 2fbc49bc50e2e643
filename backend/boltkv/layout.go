package boltkv

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"unsafe"

	"go.etcd.io/bbolt"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/keys"
)

// The bookkeeping is in buckets beside the root's. The first one, whose name is
// Options.Meta, is kept small: see recordWriter. Its sequence is the store's
// revision. The others' names are its name and a suffix.
const (
	schemaKey = "schema" // → schemaVersion
	fenceKey  = "fence"  // → the fencing token, big endian, up to which some may have been given
	recentKey = "recent" // → the last generation, and the latest records

	recordsSuffix     = "/records"     // key → record
	expiriesSuffix    = "/expiries"    // deadline in ms, big endian, and key → nothing
	historySuffix     = "/history"     // revision, big endian → commit
	generationsSuffix = "/generations" // number, big endian → generation

	schemaVersion = "1"
)

// firstRevision is that of a bucket that this library has not written to. What
// other programs wrote has it where it cannot be adopted, in a file that was
// opened read-only.
const firstRevision = 1

// maxKey is what bbolt takes, less the deadline before it in expiries.
const maxKey = bbolt.MaxKeySize - 8

// layout is where the buckets of one root are: paths of nested buckets.
type layout struct {
	root                                    string
	data, meta                              [][]byte
	records, expiries, history, generations [][]byte // beside meta
}

// layoutOf reads the options. Its error is reported by every call, because New
// cannot fail.
func layoutOf(root, meta string) (layout, error) {
	if root == "" {
		root = "kv"
	}
	space := keys.NewSpace(root, keys.Verbatim())
	if meta == "" {
		meta = space.Meta()
	}
	l := layout{root: root, data: bucketPath(root), meta: bucketPath(meta)}
	l.records, l.expiries = l.beside(recordsSuffix), l.beside(expiriesSuffix)
	l.history, l.generations = l.beside(historySuffix), l.beside(generationsSuffix)
	for _, path := range [][][]byte{l.data, l.meta} {
		for _, name := range path {
			if len(name) == 0 || len(name) > bbolt.MaxKeySize {
				return l, fmt.Errorf("%w: bucket names must not be empty or longer than %d bytes", backend.ErrInvalid, bbolt.MaxKeySize)
			}
		}
	}
	if meta == root || strings.HasPrefix(root, meta+"/") || strings.HasPrefix(meta, root+"/") {
		return l, fmt.Errorf("%w: the bookkeeping bucket must be neither the root bucket nor above or below it", backend.ErrInvalid)
	}
	return l, nil
}

func bucketPath(s string) (path [][]byte) {
	for name := range strings.SplitSeq(s, "/") {
		path = append(path, []byte(name))
	}
	return path
}

// buckets are those of one transaction; nil where there is none yet. The ones
// that most transactions can do without are opened when they are asked for.
type buckets struct {
	tx     *bbolt.Tx
	layout *layout

	data, meta *bbolt.Bucket
	owner      uint64 // the last generation; 0: none
	recent     []byte // the latest records, as the transaction began
}

func (b buckets) records() *bbolt.Bucket     { return b.need(b.layout.records) }
func (b buckets) expiries() *bbolt.Bucket    { return b.need(b.layout.expiries) }
func (b buckets) history() *bbolt.Bucket     { return b.need(b.layout.history) }
func (b buckets) generations() *bbolt.Bucket { return b.need(b.layout.generations) }

// need opens a bucket that is there if b.meta is. Otherwise it panics as bbolt
// does for damage: see rescue.
func (b buckets) need(path [][]byte) *bbolt.Bucket {
	bucket := find(b.tx, path)
	if bucket == nil {
		panic(fmt.Errorf("bucket %q is missing", path))
	}
	return bucket
}

// beside is the path of the bookkeeping bucket with a suffix.
func (l layout) beside(suffix string) [][]byte {
	path := slices.Clone(l.meta)
	last := len(path) - 1
	path[last] = append(slices.Clip(path[last]), suffix...)
	return path
}

// bucketHolder is a transaction or a bucket.
type bucketHolder interface {
	Bucket(name []byte) *bbolt.Bucket
	CreateBucketIfNotExists(name []byte) (*bbolt.Bucket, error)
}

func find(tx *bbolt.Tx, path [][]byte) *bbolt.Bucket {
	b := tx.Bucket(path[0])
	for _, name := range path[1:] {
		if b == nil {
			return nil
		}
		b = b.Bucket(name)
	}
	return b
}

func create(tx *bbolt.Tx, path [][]byte) (b *bbolt.Bucket, err error) {
	in := bucketHolder(tx)
	for _, name := range path {
		if b, err = in.CreateBucketIfNotExists(name); err != nil {
			return nil, err
		}
		in = b
	}
	return b, nil
}

// open finds the buckets.
func (l *layout) open(tx *bbolt.Tx) (b buckets) {
	b = buckets{tx: tx, layout: l, data: find(tx, l.data), meta: find(tx, l.meta)}
	if b.meta == nil {
		return b
	}
	if v := b.meta.Get([]byte(recentKey)); len(v) >= 8 {
		b.owner, b.recent = binary.BigEndian.Uint64(v), v[8:]
	}
	return b
}

// check refuses bookkeeping that is not understood. Nobody else writes it while
// the file is open, so once is enough.
func (b buckets) check() error {
	if b.meta == nil {
		return nil
	}
	switch v := string(b.meta.Get([]byte(schemaKey))); {
	case v == schemaVersion:
	case v == "":
		return fmt.Errorf("%w: bucket %q is not this library's", backend.ErrCorrupt, b.layout.meta)
	case len(v) > len(schemaVersion) || v > schemaVersion:
		return fmt.Errorf("%w: schema %q in bucket %q, this version knows %s",
			backend.ErrNewerSchema, v, b.layout.meta, schemaVersion)
	default:
		return fmt.Errorf("%w: schema %q in bucket %q", backend.ErrCorrupt, v, b.layout.meta)
	}
	l := b.layout
	for _, path := range [][][]byte{l.records, l.expiries, l.history, l.generations} {
		if find(b.tx, path) == nil {
			return fmt.Errorf("%w: bucket %q is missing", backend.ErrCorrupt, path)
		}
	}
	if v := b.meta.Get([]byte(recentKey)); len(v) > 0 && len(v) < 8 {
		return fmt.Errorf("%w: the last generation is missing in bucket %q", backend.ErrCorrupt, l.meta)
	}
	_, err := parseRecent(b.recent)
	return err
}

// create is open for a write transaction: it makes what is missing.
func (l *layout) create(tx *bbolt.Tx) (b buckets, err error) {
	b = l.open(tx)
	if b.data == nil {
		if b.data, err = create(tx, l.data); err != nil {
			return b, err
		}
	}
	if b.meta != nil {
		return b, nil
	}
	if b.meta, err = create(tx, l.meta); err != nil {
		return b, err
	}
	for _, path := range [][][]byte{l.expiries, l.history, l.generations, l.records} {
		if _, err = create(tx, path); err != nil {
			return b, err
		}
	}
	if err := b.meta.SetSequence(firstRevision); err != nil {
		return b, err
	}
	return b, b.meta.Put([]byte(schemaKey), []byte(schemaVersion))
}

// revision is the store's, as b's transaction sees it.
func (b buckets) revision() backend.Revision {
	if b.meta == nil {
		return firstRevision
	}
	return backend.Revision(b.meta.Sequence())
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(value []byte) uint32 { return crc32.Checksum(value, castagnoli) }

// expiryKey is the key of the index of expiries.
func expiryKey(deadline int64, key string) []byte {
	b := make([]byte, 0, 8+len(key))
	b = binary.BigEndian.AppendUint64(b, uint64(deadline))
	return append(b, key...)
}

func parseExpiry(b []byte) (deadline int64, key string, err error) {
	if len(b) <= 8 {
		return 0, "", fmt.Errorf("%w: an expiry of %d bytes", backend.ErrCorrupt, len(b))
	}
	return int64(binary.BigEndian.Uint64(b)), string(b[8:]), nil
}

// readOnly is the bytes of a key, for a call that does not keep or change
// them, without a copy: bbolt's Get and Seek.
func readOnly(key string) []byte { return unsafe.Slice(unsafe.StringData(key), len(key)) }

// text is readOnly the other way: a string for as long as b lasts and does not
// change, which for bbolt's keys is the transaction.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
