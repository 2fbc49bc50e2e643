package boltkv

// Waiting is how many writes wait for their transaction.
func (s *Store) Waiting() int {
	s.commits.mu.Lock()
	defer s.commits.mu.Unlock()
	return len(s.commits.waiting)
}

// Pages is how many pages were written, several by every commit.
func (s *Store) Pages() int64 { return commitCount(s.db) }
