package zookeeperkv

import (
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
)

// pollInterval is how often the state of a connection of the caller's is looked at, where the client's events cannot
// be had. The client's own host list waits a second before it dials the same server again, and names another server
// otherwise, so no reconnection falls between two looks.
const pollInterval = 50 * time.Millisecond

// session is what is known of the state of a link's connection.
type session struct {
	l       *link
	polling sync.Once

	mu     sync.Mutex
	up     bool
	id     int64
	server string
	epoch  uint64 // counts connections; watches may have been lost between two
	since  time.Time
	heard  time.Time
	change chan struct{} // closed at the next change
}

func (s *session) init(l *link) {
	s.l = l
	s.since = time.Now()
	s.change = make(chan struct{})
}

// changed returns a channel that is closed at the next change of the state.
func (s *session) changed() <-chan struct{} {
	s.observe()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.change
}

// now returns the number of the connection, and whether it is up.
func (s *session) now() (epoch uint64, up bool) {
	s.observe()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch, s.up
}

// health returns when the server was last heard, and since when it has been out of reach (zero: it is not).
func (s *session) health() (heard, down time.Time) {
	s.observe()
	s.mu.Lock()
	defer s.mu.Unlock()
	heard = s.heard
	if s.l.wire != nil {
		if t := s.l.wire.heard(); t.After(heard) {
			heard = t
		}
	}
	if !s.up {
		down = s.since
	}
	return heard, down
}

// touch notes an answer.
func (s *session) touch() {
	s.mu.Lock()
	s.heard = time.Now()
	s.mu.Unlock()
}

// observe makes sure that somebody looks at a connection whose events go to the caller.
func (s *session) observe() {
	if s.l.wire != nil {
		return
	}
	s.polling.Do(func() {
		s.look()
		s.l.spawn(func() {
			t := time.NewTicker(pollInterval)
			defer t.Stop()
			for {
				select {
				case <-t.C:
					s.look()
				case <-s.l.done:
					return
				}
			}
		})
	})
}

func (s *session) look() {
	c := s.l.conn
	s.set(c.State() == zk.StateHasSession, c.SessionID(), c.Server())
}

// event takes the client's events on a connection of the driver's. It may run before the link has its conn.
func (s *session) event(e zk.Event) {
	if e.State == zk.StateExpired {
		// The next session may begin with a server that lags behind what this one has seen.
		s.l.seen.Store(0)
		s.l.wire.zxid.Store(0)
	}
	s.set(e.State == zk.StateHasSession, 0, e.Server)
}

func (s *session) set(up bool, id int64, server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := up == s.up && (!up || id == s.id && server == s.server)
	if same {
		return
	}
	if up {
		if id != s.id {
			s.l.seen.Store(0)
		}
		s.epoch++
		s.heard = time.Now()
		s.id, s.server = id, server
	} else if s.up {
		s.since = time.Now()
	}
	s.up = up
	close(s.change)
	s.change = make(chan struct{})
}
