package zookeeperkv

import (
	"context"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
)

// bits are the two watches that a node can have.
type bits uint8

const (
	dataBit  bits = 1 << iota // GetW, ExistsW
	childBit                  // ChildrenW
)

// hub hands the client's watch events to those who are interested in a node.
//
// ZooKeeper's watches fire once and cannot be taken back through this client, which keeps a channel for every one that
// was asked for. So the hub remembers what is armed and has not fired: whoever comes to such a node needs no second
// watch, and a read that follows is covered by the first. A node never has more than two.
type hub struct {
	l *link

	mu      sync.Mutex
	nodes   map[string]*interest
	waiting map[<-chan zk.Event]string // on a connection of the caller's

	renewing sync.Mutex
	epoch    uint64 // the connection for which armed is known to hold
}

type interest struct {
	watchers map[*watch]struct{}
	armed    bits
	fires    uint32 // to notice an event that overtakes the arming
}

func (h *hub) init(l *link) {
	h.l = l
	h.nodes = map[string]*interest{}
	h.waiting = map[<-chan zk.Event]string{}
}

func (h *hub) join(path string, w *watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.nodes[path]
	if n == nil {
		n = &interest{}
		h.nodes[path] = n
	}
	if n.watchers == nil {
		n.watchers = make(map[*watch]struct{}, 1)
	}
	n.watchers[w] = struct{}{}
}

func (h *hub) leave(path string, w *watch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.nodes[path]; n != nil {
		delete(n.watchers, w)
		h.drop(path, n)
	}
}

func (h *hub) drop(path string, n *interest) {
	if len(n.watchers) == 0 && n.armed == 0 {
		delete(h.nodes, path)
	}
}

// look reports whether a watch of a joined node is armed, and what to give to arm later.
func (h *hub) look(path string, b bits) (armed bool, fires uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.nodes[path]
	if n == nil {
		return false, 0
	}
	return n.armed&b != 0, n.fires
}

// arm notes that a watch was set, unless an event has come since look.
func (h *hub) arm(path string, b bits, fires uint32, ch <-chan zk.Event) {
	h.mu.Lock()
	n := h.nodes[path]
	if n == nil {
		n = &interest{fires: fires}
		h.nodes[path] = n
	}
	if n.fires == fires {
		n.armed |= b
	}
	h.drop(path, n)
	own := h.l.wire != nil
	if !own {
		h.waiting[ch] = path
	}
	h.mu.Unlock()
	if own {
		return // the client's callback reports all events
	}
	h.l.spawn(func() {
		select {
		case e, ok := <-ch:
			if ok {
				h.event(e)
			}
		case <-h.l.done:
		}
		h.mu.Lock()
		delete(h.waiting, ch)
		h.mu.Unlock()
	})
}

// event takes an event of a node. It does not block.
func (h *hub) event(e zk.Event) {
	var b bits
	switch e.Type {
	case zk.EventNodeCreated, zk.EventNodeDataChanged:
		b = dataBit
	case zk.EventNodeChildrenChanged:
		b = childBit
	case zk.EventNodeDeleted, zk.EventNotWatching:
		b = dataBit | childBit
	default:
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.nodes[e.Path]
	if n == nil {
		return
	}
	n.armed &^= b
	n.fires++
	for w := range n.watchers {
		w.fire(e.Path, b)
	}
	h.drop(e.Path, n)
}

// renew makes armed hold after a reconnection.
//
// The client sets its watches again on its own, from the last zxid that it has seen. But it looks that up when the new
// connection is answering already, so it may pass over what has changed meanwhile: everything has to be read again in
// any case, after the watches were set. When they were is visible on a connection of the driver's. On the caller's it is
// not, and every watch is set once more, which leaves a channel a watch in the client until it fires.
func (h *hub) renew(ctx context.Context, epoch uint64) {
	h.renewing.Lock()
	defer h.renewing.Unlock()
	if h.epoch == epoch {
		return
	}
	if h.l.wire != nil && h.rewatched(ctx) {
		h.epoch = epoch
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for path, n := range h.nodes {
		n.armed = 0
		h.drop(path, n)
	}
	h.epoch = epoch
}

// rewatched waits until the client has set its watches again, and reports false if it does not seem to.
func (h *hub) rewatched(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for h.anyArmed() {
		w := h.l.wire
		if w.rewatched.Load() == w.conns.Load() {
			return true
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (h *hub) anyArmed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.nodes {
		if n.armed != 0 {
			return true
		}
	}
	return false
}

// catchUp delivers events that the client has received and that are still on their way here, on a connection of the
// caller's.
func (h *hub) catchUp() {
	if h.l.wire != nil {
		return
	}
	h.mu.Lock()
	chans := make([]<-chan zk.Event, 0, len(h.waiting))
	paths := make([]string, 0, len(h.waiting))
	for ch, path := range h.waiting {
		chans, paths = append(chans, ch), append(paths, path)
	}
	h.mu.Unlock()
	for i, ch := range chans {
		select {
		case e, ok := <-ch:
			if !ok { // its goroutine has it, and may not have come to deliver it
				e = zk.Event{Type: zk.EventNotWatching, Path: paths[i]}
			}
			h.event(e)
		default:
		}
	}
}
