package rediskv

import (
	"context"
	"strings"
	"sync"
	"time"
)

// contenders are those of one Store, and its observers of locks, whom the tail wakes.
type contenders struct {
	mu        sync.Mutex
	byID      map[string]*contender
	observers map[*observer]struct{}
}

// wake is told what a script has said to a contender of this process: "held" or "lost", and its id.
func (cs *contenders) wake(message string) {
	word, id, _ := strings.Cut(message, " ")
	cs.mu.Lock()
	c := cs.byID[id]
	cs.mu.Unlock()
	if c == nil {
		return
	}
	if word == "lost" {
		c.lose()
	}
	c.nudge()
}

// headChanged is told the name of a lock whose holder has changed, or "" if that may be any.
func (cs *contenders) headChanged(name string) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for o := range cs.observers {
		if o.name == name || name == "" {
			o.nudge()
		}
	}
}

// lookAgain is for messages that somebody had no right to send, or to hear: those who wait for a lock or observe one look
// for themselves. The holder of one renews it, and so learns of its loss.
func (cs *contenders) lookAgain() {
	cs.headChanged("")
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for _, c := range cs.byID {
		c.stir()
	}
}

// listenAfter is how long a lock is held before its holder listens for its loss: most locks are held for a moment.
const listenAfter = 300 * time.Millisecond

// listen makes the tail tell of the loss of the place, and of its admission.
func (c *contender) listen() {
	c.mu.Lock()
	begin := !c.listening && !c.over
	c.listening = c.listening || begin
	c.mu.Unlock()
	if begin && c.s.tail.listen(c) == nil {
		c.mu.Lock()
		over := c.over
		c.mu.Unlock()
		if over {
			c.s.tail.leave(c)
		}
	}
}

// heard implements listener: what the log tells does not concern locks.
func (c *contender) heard(message) {}

// stir has a waiting contender look.
func (c *contender) stir() {
	select {
	case c.woken <- struct{}{}:
	default:
	}
}

// nudge implements listener. A waiting contender looks; for one that holds and is not told of its loss, somebody has to.
func (c *contender) nudge() {
	c.stir()
	c.mu.Lock()
	check := c.held && !c.over
	c.mu.Unlock()
	if check && c.s.enter() {
		go func() {
			defer c.s.calls.Done()
			ctx, cancel := context.WithTimeout(c.s.life, c.s.opt.DialTimeout)
			defer cancel()
			_, _ = c.act(ctx, "look") // closes Lost; a failure is the renewal's to report
		}()
	}
}

// lose notes that the place is gone although nobody released it.
func (c *contender) lose() {
	c.mu.Lock()
	lost := !c.over
	c.over = true
	c.mu.Unlock()
	if lost {
		close(c.lost)
		c.forget()
	}
}

// forget ends what the process has of the place.
func (c *contender) forget() {
	c.s.contenders.mu.Lock()
	delete(c.s.contenders.byID, c.id)
	c.s.contenders.mu.Unlock()
	c.mu.Lock()
	listening := c.listening
	c.listening = false
	if c.later != nil {
		c.later.Stop()
	}
	c.mu.Unlock()
	if listening {
		c.s.tail.leave(c)
	}
}
