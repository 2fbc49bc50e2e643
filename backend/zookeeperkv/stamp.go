package zookeeperkv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/polykv/kv/backend"
)

// A stock server knows no TTL for nodes. A key that expires has a stamp in the bookkeeping, written in the Multi that
// writes the value. All parts of a Multi have one zxid, so a stamp belongs to the value whose mzxid is its own; any
// later write of the key, by another program too, leaves the stamp behind, and with it the expiry. A renewal, which
// must not touch the key, writes the mzxid that the stamp belongs to into it instead.
//
//	META/ttl/BUCKET/DIGEST      the stamp: "expires due tie lease path"
//	META/due/SECOND/BUCKETDIGEST  nothing: names the stamps that may have expired by then
//
// BUCKET is a number from the key's directory, so that readers learn from one watched list of buckets that what they
// read cannot have a stamp; there are at most 1024, made once and never removed. Other keys are read with their stamps
// in one round trip.
const stampBuckets = 1024

// stamp is when a key expires.
type stamp struct {
	path    string // of the key
	expires int64  // Unix time in milliseconds
	due     int64  // the second under which the stamp is listed; never later than it expires, rounded up
	tie     int64  // the mzxid of the value that it belongs to
	lease   string // the name of the lease that keeps it alive, or empty

	version int32 // of the stamp's own node
}

func (t stamp) time() time.Time { return time.UnixMilli(t.expires) }

// expired reports whether the key that t belongs to is absent. A writer's clock may be behind by the skew.
func (s *Store) expired(t *stamp) bool {
	return t != nil && time.Now().UnixMilli() >= t.expires+s.o.ClockSkew.Milliseconds()
}

// newStamp returns the stamp of a value that is about to be written.
func newStamp(path string, ttl time.Duration) stamp {
	t := stamp{path: path}
	t.extend(ttl)
	t.due = (t.expires + 999) / 1000
	return t
}

func (t *stamp) extend(ttl time.Duration) {
	t.expires = time.Now().Add(ttl + time.Millisecond - 1).UnixMilli()
}

// encode writes t. With tied, it stays with the value at t.tie; else it belongs to the value of the same Multi.
func (t stamp) encode(tied bool) []byte {
	b := strconv.AppendInt(make([]byte, 0, 64+len(t.path)), t.expires, 10)
	b = strconv.AppendInt(append(b, ' '), t.due, 10)
	tie := t.tie
	if !tied {
		tie = 0
	}
	b = strconv.AppendInt(append(b, ' '), tie, 10)
	b = append(append(b, ' '), t.lease...)
	return append(append(b, ' '), t.path...)
}

func parseStamp(n node) (*stamp, error) {
	f := strings.SplitN(string(n.data), " ", 5)
	if len(f) != 5 {
		return nil, fmt.Errorf("%w: expiry record %q", backend.ErrCorrupt, n.data)
	}
	t := &stamp{lease: f[3], path: f[4], version: n.stat.Version}
	for i, v := range []*int64{&t.expires, &t.due, &t.tie} {
		var err error
		if *v, err = strconv.ParseInt(f[i], 10, 64); err != nil {
			return nil, fmt.Errorf("%w: expiry record %q", backend.ErrCorrupt, n.data)
		}
	}
	if t.tie == 0 {
		t.tie = n.stat.Mzxid
	}
	return t, nil
}

// slot is where the stamp of a key lies.
type slot struct {
	bucket string
	digest string
}

func slotOf(path string) slot {
	sum := sha256.Sum256([]byte(path))
	return slot{fmt.Sprintf("%03x", hash(parent(path))%stampBuckets), hex.EncodeToString(sum[:16])}
}

func bucketOf(path string) uint16 { return uint16(hash(parent(path)) % stampBuckets) }

func (s *Store) stampPath(t slot) string { return s.meta + "/ttl/" + t.bucket + "/" + t.digest }
func (s *Store) duePath(second int64) string {
	return s.meta + "/due/" + strconv.FormatInt(second, 10)
}
func (s *Store) duePathOf(second int64, t slot) string {
	return s.duePath(second) + "/" + t.bucket + t.digest
}

// readStamp reads the stamp of the key at path, nil if there is none.
func (s *Store) readStamp(ctx context.Context, l *link, path string) (*stamp, error) {
	n, err := s.get(ctx, l, s.stampPath(slotOf(path)))
	if err != nil {
		return nil, err
	}
	return stampOf(n, path)
}

// stampOf is the stamp of the key at path that n, its node, holds; nil if there is none.
func stampOf(n node, path string) (*stamp, error) {
	if n.data == nil {
		return nil, nil
	}
	t, err := parseStamp(n)
	if err == nil && t.path != path {
		return nil, fmt.Errorf("%w: expiry record of %q where that of %q belongs", backend.ErrCorrupt, t.path, path)
	}
	return t, err
}

// stampIndex is a link's copy of the list of buckets.
//
// ZooKeeper sends a watch event before the answer to any later request that could show the change. So if the watch has
// not fired when an answer is there, the copy was right for that answer.
type stampIndex struct {
	turn chan struct{} // held while the list is read

	mu      sync.Mutex
	fired   <-chan zk.Event // nil: not loaded
	epoch   uint64          // the connection on which it was loaded
	buckets map[uint16]bool
}

// may reports whether keys in bucket may have stamps; ok is false if the list has to be read again.
func (x *stampIndex) may(l *link, bucket uint16) (may, ok bool) {
	epoch, _ := l.session.now()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.fired == nil || x.epoch != epoch {
		return false, false
	}
	select {
	case <-x.fired:
		x.fired = nil
		return false, false
	default:
		return x.buckets[bucket], true
	}
}

// load reads the list of buckets and watches it.
func (x *stampIndex) load(ctx context.Context, s *Store, l *link) error {
	type answer struct {
		names []string
		fired <-chan zk.Event
	}
	epoch, _ := l.session.now()
	dir := s.meta + "/ttl"
	a, err := call(ctx, l, reads, func(c *zk.Conn) (answer, error) {
		for {
			names, _, fired, err := c.ChildrenW(dir)
			if !errors.Is(err, zk.ErrNoNode) {
				return answer{names, fired}, err
			}
			ok, _, fired, err := c.ExistsW(dir)
			if err != nil || !ok {
				return answer{nil, fired}, err
			}
		}
	}, nil)
	if errors.Is(err, backend.ErrPermission) {
		// Who may not see the bookkeeping cannot know of expiries. Nobody here can have set one either.
		s.o.Logger.Warn("zookeeper: the bookkeeping cannot be read; expiries are not seen", "path", dir, "error", err)
		a, err = answer{fired: make(chan zk.Event)}, nil
	}
	if err != nil {
		return err
	}
	buckets := make(map[uint16]bool, len(a.names))
	for _, name := range a.names {
		if n, err := strconv.ParseUint(name, 16, 16); err == nil {
			buckets[uint16(n)] = true
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.fired, x.epoch, x.buckets = a.fired, epoch, buckets
	return nil
}

// stamped reports whether the key at path may have a stamp.
func (s *Store) stamped(ctx context.Context, l *link, path string) (bool, error) {
	bucket := bucketOf(path)
	var late <-chan time.Time // whoever has the turn may be waiting for the dial timeout, and so may those before
	for {
		if may, ok := l.stamps.may(l, bucket); ok {
			return may, nil
		}
		if late == nil {
			t := time.NewTimer(l.dialTimeout)
			defer t.Stop()
			late = t.C
		}
		select {
		case l.stamps.turn <- struct{}{}:
		case <-late:
			return false, backend.Because(backend.ErrUnavailable, errNoAnswer)
		case <-ctx.Done():
			return false, backend.ContextError(ctx)
		}
		var err error
		if _, ok := l.stamps.may(l, bucket); !ok {
			err = l.stamps.load(ctx, s, l)
		}
		<-l.stamps.turn
		if err != nil {
			return false, err
		}
	}
}

// reading is how the node of a key is read: get, or head where the value is of no use.
type reading func(ctx context.Context, l *link, path string) (node, error)

// record is a key as it is, stamp included.
type record struct {
	node
	stamp *stamp // that belongs to the value
	stale *stamp // that was left behind by an earlier value
}

// live reports whether there is a key for anybody to see.
func (s *Store) live(r record) bool { return r.isKey() && !s.expired(r.stamp) }

func (r record) revision() backend.Revision { return backend.Revision(r.stat.Mzxid) }

// entry is what r tells to the user, without the value.
func (r record) entry(key string) backend.Entry {
	e := backend.Entry{Key: key, Revision: r.revision(), Created: backend.Revision(r.stat.Czxid)}
	if r.stamp != nil && r.stamp.lease == "" {
		e.Expires = r.stamp.time()
	}
	return e
}

// record reads a key with its stamp: in one round trip, without the stamp where none can be.
func (s *Store) record(ctx context.Context, l *link, path string, read reading) (record, error) {
	for {
		may, err := s.stamped(ctx, l, path)
		if err != nil {
			return record{}, err
		}
		if !may {
			n, err := read(ctx, l, path)
			if err != nil {
				return record{}, err
			}
			if may, ok := l.stamps.may(l, bucketOf(path)); ok && !may {
				return record{node: n}, nil
			}
			continue // the first stamp of the bucket came in between
		}
		r, again, err := s.stampedRecord(ctx, l, path, read)
		if err != nil || !again {
			return r, err
		}
	}
}

// stampedRecord reads key and stamp side by side, and finds out what a write between the two has done.
func (s *Store) stampedRecord(ctx context.Context, l *link, path string, read reading) (r record, again bool, err error) {
	var t *stamp
	before := l.zxid()
	err = parallel(ctx, 2, func(ctx context.Context, i int) (err error) {
		if i == 0 {
			r.node, err = read(ctx, l, path)
		} else {
			t, err = s.readStamp(ctx, l, path)
		}
		return err
	})
	if err != nil {
		return record{}, false, err
	}
	if r.doubts(t, before) {
		if t, err = s.readStamp(ctx, l, path); err != nil {
			return record{}, false, err
		}
	}
	return r, r.settle(t), nil
}

// doubts reports that the value was written while it and the stamp t were read, the store having been at before: t may
// have been read before that, and has to be read again.
func (r record) doubts(t *stamp, before int64) bool {
	return r.isKey() && r.stat.Mzxid > before && (t == nil || t.tie < r.stat.Mzxid)
}

// settle finds out whose t is, which was read after the value. It reports true if that has changed since: key and stamp
// have to be read again.
func (r *record) settle(t *stamp) (again bool) {
	switch {
	case t == nil:
	case r.isKey() && t.tie == r.stat.Mzxid:
		r.stamp = t
	case r.isKey() && t.tie > r.stat.Mzxid:
		return true
	default:
		r.stale = t
	}
	return false
}
