package zookeeperkv

import (
	"context"
	"errors"
	"time"

	"github.com/polykv/kv/backend"
	"github.com/polykv/kv/internal/backoff"
)

// run is the goroutine of a watch.
func (w *watch) run(established chan<- error) {
	defer close(w.done)
	defer w.s.disown(w)
	defer w.leaveAll()
	if err := w.establish(); err != nil {
		established <- err
		return
	}
	established <- nil
	var wait backoff.Backoff
	for w.ctx.Err() == nil {
		more, err := w.step()
		switch {
		case err == nil && more:
			wait.Reset()
		case err == nil:
			w.sleep()
		case w.ctx.Err() != nil:
		case errors.Is(err, backend.ErrUnavailable), errors.Is(err, backend.ErrUncertain):
			wait.Wait(w.ctx)
		default:
			w.fail(err)
			return
		}
	}
	w.fail(nil)
}

func (w *watch) leaveAll() {
	w.l.hub.leave(w.dir, w)
	for path := range w.nodes {
		w.l.hub.leave(path, w)
	}
}

// establish reads everything once and sets the watches.
func (w *watch) establish() error {
	if err := w.l.sync(w.ctx, w.s.root).wait(w.ctx, true); err != nil {
		return err
	}
	w.epoch, _ = w.l.session.now()
	w.l.hub.renew(w.ctx, w.epoch)
	w.l.hub.join(w.dir, w)
	var jobs []job
	if w.o.Key {
		w.nodes[w.dir] = &known{}
		jobs = []job{{path: w.dir, bits: dataBit}}
	} else {
		jobs = []job{{path: w.dir, bits: childBit}}
	}
	for len(jobs) > 0 {
		batch := jobs[:min(len(jobs), pipeline)]
		jobs = jobs[len(batch):]
		for i := range batch {
			batch[i].value = w.wants()
		}
		results, err := w.read(batch)
		if err != nil {
			return err
		}
		for _, r := range results {
			if r.job.bits&dataBit != 0 {
				w.exist(r)
			}
		}
		for _, r := range results {
			if r.job.bits&childBit != 0 {
				jobs = append(jobs, w.grow(r)...)
			}
		}
	}
	return nil
}

// wants reports whether values are read while the watch is established: for the snapshot, as long as the buffer takes
// them, and for events that carry the value before.
func (w *watch) wants() bool { return w.o.Prev || w.o.Snapshot && !w.full() }

// exist takes in a node while the watch is established.
func (w *watch) exist(r result) {
	k := w.nodes[r.job.path]
	if k == nil {
		return
	}
	w.remember(k, r)
	if !r.exists && !w.o.Key {
		w.forget(r.job.path) // or its directory would not bring it back
		return
	}
	if !k.live || !w.o.Snapshot {
		return
	}
	if !r.job.value || w.full() {
		w.pending = append(w.pending, r.job.path)
		return
	}
	w.push(backend.Event{Kind: backend.Existing, Entry: w.entry(r)})
}

// step does one piece of work; more is false if there was none.
func (w *watch) step() (more bool, err error) {
	if w.full() {
		return false, nil
	}
	if len(w.pending) > 0 {
		return true, w.deliverPending()
	}
	if w.o.Snapshot {
		w.o.Snapshot = false
		w.push(backend.Event{Kind: backend.Synced})
	}
	epoch, up := w.l.session.now()
	if epoch != w.epoch && up {
		w.restart(epoch)
	}
	w.expire()
	jobs := w.take()
	if len(jobs) == 0 {
		w.settle()
		return false, nil
	}
	results, err := w.read(jobs)
	if err != nil {
		w.giveBack(jobs)
		return false, err
	}
	if now, _ := w.l.session.now(); now != w.epoch {
		w.giveBack(jobs) // read it again after Resynced
		return true, nil
	}
	w.apply(results)
	w.settle()
	return true, nil
}

// deliverPending reads values of the snapshot that did not fit into the buffer before.
func (w *watch) deliverPending() error {
	paths := w.pending[:min(len(w.pending), pipeline)]
	records := make([]record, len(paths))
	err := parallel(w.ctx, len(paths), func(ctx context.Context, i int) (err error) {
		records[i], err = w.s.record(ctx, w.l, paths[i], w.s.get)
		return err
	})
	if err != nil {
		return err
	}
	w.pending = w.pending[len(paths):]
	for i, path := range paths {
		r := result{job: job{path: path}, record: records[i]}
		k := w.nodes[path]
		w.remember(k, r)
		if k.live {
			w.push(backend.Event{Kind: backend.Existing, Entry: w.entry(r)})
		}
	}
	return nil
}

// restart marks everything after a reconnection: whatever has happened meanwhile may have been missed.
func (w *watch) restart(epoch uint64) {
	w.epoch = epoch
	w.l.hub.renew(w.ctx, epoch)
	if !w.resync {
		w.resync = true
		w.push(backend.Event{Kind: backend.Resynced})
	}
	w.light = make(map[string]bool, len(w.nodes))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hasten()
	w.mark(w.dir, dataBit|childBit, true)
	for path := range w.nodes {
		w.mark(path, dataBit|childBit, true)
		w.light[path] = true
	}
}

// expire marks the keys whose time has come.
func (w *watch) expire() {
	now := time.Now().Add(-w.s.o.ClockSkew).UnixMilli()
	for path, at := range w.expiring {
		if at <= now {
			delete(w.expiring, path)
			w.fire(path, dataBit)
		}
	}
}

// settle says what is to be said once everything is read that has to be read before.
func (w *watch) settle() {
	w.mu.Lock()
	settled := len(w.first) == 0
	// On a new connection something may have been missed that is not known yet. It is looked up behind the flag: the sync
	// may have been answered on a connection that was made since this step began.
	progress := w.progress && settled
	if progress {
		epoch, _ := w.l.session.now()
		progress = epoch == w.epoch
	}
	reached := w.reached
	if progress {
		w.progress = false
	}
	w.mu.Unlock()
	if settled && w.resync {
		w.resync, w.light = false, nil
		w.push(backend.Event{Kind: backend.Synced})
	}
	if progress {
		w.push(backend.Event{Kind: backend.Progress, Entry: backend.Entry{Revision: backend.Revision(reached)}})
	}
}

// sleep waits for something to do.
func (w *watch) sleep() {
	changed := w.l.session.changed()
	if epoch, up := w.l.session.now(); epoch != w.epoch && up {
		changed = nil
		if !w.full() {
			return
		}
	}
	var expiry <-chan time.Time
	if at, ok := w.nextExpiry(); ok && !w.full() {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		expiry = t.C
	}
	select {
	case <-w.wake:
	case <-changed:
	case <-expiry:
	case <-w.ctx.Done():
	}
}

// job is a node to be read.
type job struct {
	path  string
	bits  bits
	value bool // its value is wanted, too
	first bool // it was marked so
}

// result is what was read.
type result struct {
	job job
	record
	names []string
	ok    bool // the directory exists
}

// take takes up to a pipeline's length of marked nodes.
func (w *watch) take() []job {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.caught = false
	var jobs []job
	for _, first := range []bool{true, false} {
		marked := w.dirty
		if first {
			marked = w.first
		}
		for path, b := range marked {
			if len(jobs) == pipeline {
				return jobs
			}
			delete(marked, path)
			if path == w.dir && !w.o.Key {
				b = childBit
			} else if w.nodes[path] == nil {
				continue
			} else if w.o.Key {
				b = dataBit
			}
			jobs = append(jobs, job{path: path, bits: b, value: w.o.Prev || !w.light[path], first: first})
		}
	}
	return jobs
}

// giveBack marks nodes that have to be read still, each as urgently as it was.
func (w *watch) giveBack(jobs []job) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, j := range jobs {
		w.mark(j.path, j.bits, j.first || w.caught)
	}
}
