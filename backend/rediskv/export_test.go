package rediskv

import (
	"time"

	"github.com/redis/go-redis/v9"
)

// LookEach sets how often s looks at the log although messages come. It is for before the first watch.
func (s *Store) LookEach(d time.Duration) { s.tail.seldom = d }

// Deafen keeps s from dealing with messages until the function that it returns is called. The connection is the one that
// they come by.
func (s *Store) Deafen() (connection *redis.PubSub, hear func()) {
	s.tail.mu.Lock()
	return s.tail.sub.PubSub, s.tail.mu.Unlock
}
