package zookeeperkv

import (
	"context"
	"errors"
	"sync"
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
	conn   int64  // and the connection to it
	known  bool
	able   bool
}

// usable reports whether the server of the store's connection answers multiRead. One before 3.6 would close the
// connection instead, and with it the fate of writes that are under way: so it is asked first, in a session of its own.
func (b *bulk) usable(ctx context.Context) bool {
	if b.s.dialer == nil {
		return false // on a connection of the caller's there is no way to send one
	}
	if able, known := b.lookUp(); known {
		return able
	}
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return false
	}
	able, known := b.lookUp()
	if !known {
		able = b.ask(ctx)
	}
	return able
}

// lookUp tells what is known of the present server. That an old one has been replaced shows by a new connection.
func (b *bulk) lookUp() (able, known bool) {
	server, conn := b.s.link.conn.Server(), b.s.link.wire.conns.Load()
	b.mu.Lock()
	defer b.mu.Unlock()
	known = b.known && b.server == server && (b.able || b.conn == conn)
	return b.able, known
}

func (b *bulk) ask(ctx context.Context) bool {
	server, conn := b.s.link.conn.Server(), b.s.link.wire.conns.Load()
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
	_, _, err = b.s.multiRead(ctx, l, []readOp{{path: "/", children: true}})
	if err != nil && !errors.Is(err, errUnimplemented) {
		return false // and ask again: it says nothing about the server
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.server, b.conn, b.known, b.able = server, conn, true, err == nil
	return b.able
}

// forget is called when a server that was taken for an able one is not.
func (b *bulk) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.able, b.conn = false, b.s.link.wire.conns.Load()
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
