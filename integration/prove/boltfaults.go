package prove

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/polykv/kv"
	"github.com/polykv/kv/backend"
)

// killedProcess lets the clients live in another process, which is killed in the midst of their writes, and started again.
func killedProcess() Fault {
	return Fault{Name: "killed process", run: func(ctx context.Context, r *Round) (Result, error) {
		dir, err := os.MkdirTemp("", "kv-prove-")
		if err != nil {
			return Result{}, err
		}
		defer os.RemoveAll(dir)
		return r.remote(ctx, filepath.Join(dir, "kv.db"))
	}}
}

func (r *Round) remote(ctx context.Context, file string) (res Result, err error) {
	begun := time.Now()
	h := newHistory()
	run := &running{Round: r, h: h, dir: "r" + strconv.FormatUint(r.Seed, 36)}
	run.caps = backend.Capabilities{Lossless: true, Resumable: true, SnapshotList: true}
	w := &watcher{name: "the watch", prefix: run.dir, caps: run.caps, h: h, synced: make(chan struct{})}
	w.opts.Snapshot, w.opts.Prev = true, true
	w.restart()
	run.watchers = []*watcher{w}
	p := &process{file: file, dir: run.dir, w: w, h: h}
	if err := p.start(); err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, p.kill()) }()
	select {
	case <-w.synced:
	case <-time.After(30 * time.Second):
		return res, errors.New("the child's watch does not tell its snapshot")
	}
	run.Fault.Hold, run.Fault.Rest = [2]time.Duration{0, 100 * time.Millisecond}, [2]time.Duration{100 * time.Millisecond, 700 * time.Millisecond}
	run.Fault.inject = func(context.Context, *field) (string, func(context.Context) error, error) {
		w.opened++
		return "kill the process", func(context.Context) error { return p.start() }, p.kill()
	}
	var wg sync.WaitGroup
	working, stop := context.WithTimeout(ctx, r.Longest)
	defer stop()
	clients := run.work(working, &wg, func(int) caller { return p })
	_, ferr := run.nemesis(working, stop)
	wg.Wait()
	if ferr != nil {
		return res, ferr
	}
	last := newClient(r.Clients+1, r.Seed, p, h, run.dir)
	final := run.read(ctx, last)
	// A write of its own ends the stream.
	end := Input{Op: opPut, Dir: run.dir, Family: famShared, Writes: []Write{{Slot: slots - 1, Value: "end"}}}
	out := last.make(ctx, end, 10*time.Second)
	final[end.key(slots-1)] = Cell{Value: "end", Revision: out.Revision}
	if err := eventually(ctx, 30*time.Second, func(context.Context) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.seen["end"].told {
			return nil
		}
		return errors.New("the watch does not tell the last write")
	}); err != nil {
		h.fail("%v", err)
	}
	if err := p.kill(); err != nil {
		return res, err
	}
	run.judge(&res, clients, &register{key: run.dir + "/register"}, final)
	res.Took = time.Since(begun)
	return res, nil
}

// fullDisk puts the file on a small file system, which is filled to the last byte.
func fullDisk() Fault {
	return Fault{Name: "full disk", run: func(ctx context.Context, r *Round) (res Result, err error) {
		dir, err := os.MkdirTemp("", "kv-prove-")
		if err != nil {
			return res, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		if err := mountSmall(dir, 16<<20); err != nil {
			res.Skipped = fmt.Sprintf("no small file system can be mounted here: %v", err)
			return res, nil
		}
		defer func() { err = errors.Join(err, unmount(dir)) }()
		s, err := openBolt(ctx, filepath.Join(dir, "kv.db"))
		if err != nil {
			return res, err
		}
		defer func() { err = errors.Join(err, s.Close()) }()
		t := *r.Target
		t.open = func(context.Context, *network) (*kv.Store, func() error, error) {
			return kv.New(s.Peer()), nothingToClose, nil
		}
		inner := &Round{Target: &t, Seed: r.Seed, Ops: r.Ops, Cycles: max(r.Cycles, 3), Longest: r.Longest, Clients: r.Clients, Dir: r.Dir}
		inner.Fault = Fault{
			Name: "full disk", Hold: [2]time.Duration{100 * time.Millisecond, 500 * time.Millisecond}, Rest: short,
			inject: func(context.Context, *field) (string, func(context.Context) error, error) {
				filler := filepath.Join(dir, "filler")
				return "fill the disk", func(context.Context) error { return os.Remove(filler) }, fill(filler)
			},
		}
		return inner.Run(ctx)
	}}
}

// fill writes a file until there is no space left.
func fill(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 4096)
	for {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
