package rediskv

import "time"

func (s *Store) expiresIn(d time.Duration) {}
