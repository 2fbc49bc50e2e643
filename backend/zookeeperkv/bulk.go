package zookeeperkv

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// fewNodes are read in requests of their own, side by side.
	fewNodes = 4
	// pageNodes is how many nodes are read together at most. An answer that turns out too large has cost the server no
	// more than as many single ones.
	pageNodes = 64
)

// bulk is what is known of the servers: whether they answer multiRead.
type bulk struct {
	s    *Store
	turn chan struct{} // held while one is asked

	mu     sync.Mutex
	server string // the last that was asked
	conn   int64  // the store's connection to it
	able   bool
	until  time.Time // if it could not be asked: when to try again
}

const (
	askFor   = 2 * time.Second // how long a server may take to say what it can
	askAgain = time.Minute     // after it could not be asked
)

// usable reports whether the server of the store's connection answers multiRead. One before 3.6 would close the
// connection instead, and with it the fate of writes that are under way: so it is asked first, in a session of its own.
func (b *bulk) usable(ctx context.Context) bool {
	if b.s.dialer == nil {
		return false // on a connection of the caller's there is no way to send one
	}
	if able, known := b.known(); known {
		return able
	}
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return false
	}
	able, known := b.known()
	if !known {
		able = b.ask(ctx)
	}
	return able
}

// known tells what is known of the present server. That an old one has been replaced shows by a new connection.
func (b *bulk) known() (able, ok bool) {
	server, conn := b.present()
	b.mu.Lock()
	defer b.mu.Unlock()
	if server != b.server || !b.able && conn != b.conn || !b.until.IsZero() && time.Now().After(b.until) {
		return false, false
	}
	return b.able, true
}

func (b *bulk) present() (server string, conn int64) {
	return b.s.link.conn.Server(), b.s.link.wire.conns.Load()
}

func (b *bulk) ask(ctx context.Context) bool {
	server, conn := b.present()
	d := *b.s.dialer
	d.hosts = []string{server}
	l, err := d.open(b.s.o.SessionTimeout)
	if err != nil {
		return false
	}
	if b.s.adopt(l) != nil {
		l.shut()
		return false
	}
	defer b.s.tidy(func(context.Context) { // a session takes a moment to end
		l.shut()
		b.s.disown(l)
	})
	limited, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	_, _, err = b.s.multiRead(limited, l, []readOp{{path: "/", children: true}})
	if ctx.Err() != nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.server, b.conn, b.able, b.until = server, conn, err == nil, time.Time{}
	if err != nil && !errors.Is(err, errUnimplemented) {
		b.until = time.Now().Add(askAgain)
	}
	return b.able
}

// forget is called when a server that was taken for an able one is not.
func (b *bulk) forget() {
	server, conn := b.present()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.server, b.conn, b.able, b.until = server, conn, false, time.Time{}
}

// found is what was read of one key, or why it could not be.
type found struct {
	record
	err error
}

// readSome reads the keys at the beginning of paths: at least one, and as many more as make an answer of bounded size.
// read is how they are read one by one, which alone asks for. size is what was read, in bytes.
func (s *Store) readSome(ctx context.Context, paths []string, read reading, alone bool) (got []found, size int) {
	l := s.link
	for !alone && len(paths) >= fewNodes && s.bulk.usable(ctx) {
		got, size, err := s.readTogether(ctx, l, paths)
		switch {
		case err == nil:
			return got, size
		case errors.Is(err, errOversize):
			n := len(paths) / 2
			if size > 0 {
				n = min(n, len(paths)*l.wire.limit/2/size)
			}
			paths = paths[:max(n, 1)]
		case errors.Is(err, errUnimplemented):
			s.bulk.forget()
		default:
			got = make([]found, len(paths))
			for i := range got {
				got[i].err = err
			}
			return got, 0
		}
	}
	got = make([]found, len(paths))
	_ = parallel(ctx, len(paths), func(ctx context.Context, i int) error {
		got[i].record, got[i].err = s.record(ctx, l, paths[i], read)
		return nil
	})
	for i := range got {
		size += len(paths[i]) + len(got[i].data)
	}
	return got, size
}

// readTogether reads keys in one request, and those alone of which that does not tell enough. It is record for many.
func (s *Store) readTogether(ctx context.Context, l *link, paths []string) (got []found, size int, err error) {
	ops := make([]readOp, len(paths), 2*len(paths))
	stamps := make([]int, len(paths)) // where in ops the stamp is, 0 if there can be none
	for i, path := range paths {
		ops[i].path = path
		may, err := s.stamped(ctx, l, path)
		if err != nil {
			return nil, 0, err
		}
		if may {
			stamps[i] = len(ops)
			ops = append(ops, readOp{path: s.stampPath(slotOf(path))})
		}
	}
	before := l.zxid()
	results, size, err := s.multiRead(ctx, l, ops)
	if err != nil {
		return nil, size, err
	}
	got = make([]found, len(paths))
	var alone []int
	for i, path := range paths {
		r, f := results[i], &got[i]
		f.node = r.node
		at := stamps[i]
		if at == 0 {
			// As in record: the first stamp of the bucket may have come in between.
			if may, ok := l.stamps.may(l, bucketOf(path)); !ok || may || r.refused() {
				alone = append(alone, i)
			}
			continue
		}
		var t *stamp
		if t, f.err = stampOf(results[at].node, path); f.err != nil {
			continue
		}
		if r.refused() || results[at].refused() || f.doubts(t, before) || f.settle(t) {
			alone = append(alone, i)
		}
	}
	_ = parallel(ctx, len(alone), func(ctx context.Context, i int) error {
		f := &got[alone[i]]
		f.record, f.err = s.record(ctx, l, paths[alone[i]], s.get)
		return nil
	})
	return got, size, nil
}
