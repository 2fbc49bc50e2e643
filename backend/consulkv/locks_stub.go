package consulkv

import "github.com/polykv/kv/backend"

type line struct{}

func (s *Store) heldOp(c backend.Check) (txnOp, error) { return txnOp{}, nil }
