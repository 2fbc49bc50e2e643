package zookeeperkv

import (
	"context"
	"time"

	"github.com/go-zookeeper/zk"
)

// guardDelay is how long a place exists before its node is watched. Most locks are held for less, and are spared a request
// and an event.
const guardDelay = 20 * time.Millisecond

// keep watches over the place until it is gone: it closes Lost when somebody removes the node, when the session ends,
// and when either has to be assumed.
func (c *contender) keep() {
	t := time.NewTimer(guardDelay)
	select {
	case <-t.C:
	case <-c.gone:
		t.Stop()
		return
	case <-c.l.done:
		t.Stop()
		return
	}
	ctx, cancel := c.l.context()
	defer cancel()
	for {
		epoch, _ := c.l.session.now()
		fired, there := c.watchOwn(ctx)
		switch {
		case fired != nil && !there:
			c.lose()
			return
		case c.alarmed(fired, epoch):
			return
		}
	}
}

// deadline is until when the place is known to be kept: the lease from the last renewal, and the session's timeout
// from the last contact, after which the server may have ended the session.
func (c *contender) deadline() time.Time {
	renewed := c.Renewed()
	contact := c.l.contact(c.granted)
	if contact.Before(renewed) {
		contact = renewed
	}
	end := renewed.Add(c.lease)
	if session := contact.Add(c.granted); session.Before(end) {
		end = session
	}
	return end
}

// alarmed waits until the place is gone, and returns false when the node has to be watched anew.
func (c *contender) alarmed(fired <-chan zk.Event, epoch uint64) bool {
	changed := c.l.session.changed()
	for {
		left := time.Until(c.deadline())
		if left <= 0 {
			c.lose()
			return true
		}
		if fired == nil {
			left = min(left, 100*time.Millisecond)
		}
		t := time.NewTimer(left)
		select {
		case <-c.gone:
			t.Stop()
			return true
		case <-c.lost:
			t.Stop()
			return true
		case <-c.l.done:
			t.Stop()
			return true
		case e := <-fired:
			t.Stop()
			if e.Type == zk.EventNodeDeleted || e.Type == zk.EventNotWatching {
				c.lose()
				return true
			}
			return false
		case <-changed:
			t.Stop()
			if now, up := c.l.session.now(); up && now != epoch {
				return false // the watch may have been lost with the connection
			}
			changed = c.l.session.changed()
		case <-t.C:
			if fired == nil {
				return false
			}
		}
	}
}

// watchOwn watches the place's own node; the channel is nil if that does not succeed in a moment.
func (c *contender) watchOwn(ctx context.Context) (fired <-chan zk.Event, there bool) {
	type answer struct {
		there bool
		ch    <-chan zk.Event
	}
	ctx, cancel := context.WithTimeout(ctx, max(0, min(time.Until(c.deadline()), time.Second)))
	defer cancel()
	a, err := call(ctx, c.l, reads, func(conn *zk.Conn) (answer, error) {
		there, _, ch, err := conn.ExistsW(c.path)
		return answer{there, ch}, err
	}, nil)
	if err != nil {
		return nil, false
	}
	return a.ch, a.there
}
