package testserver

import "errors"

// A router is an Engine that gives each node an address of its own and can come between nodes.
type router interface {
	Engine

	// hosts are the nodes' addresses, for each other and for clients.
	hosts() []string

	// part loses all that is sent between those that are away and the others. It takes the place of what was lost before.
	part(away map[int]bool) error
}

// Partition cuts nodes off from the others, in both directions: what is sent is lost without a word, as by a broken switch.
// The nodes that are named still reach each other, and clients reach every node. It takes the place of an earlier partition,
// and lasts until Heal also when a node is restarted. It is for servers with Spec.Apart.
func (s *Server) Partition(nodes ...int) error {
	away := map[int]bool{}
	for _, i := range nodes {
		away[i] = true
	}
	return s.part("partition", nodes, away)
}

// Heal ends a partition. It is no error if there is none.
func (s *Server) Heal() error { return s.part("heal", nil, nil) }

func (s *Server) part(verb string, nodes []int, away map[int]bool) error {
	if _, err := s.choose(verb, nodes); err != nil {
		return err
	}
	r, ok := s.engine.(router)
	if !ok {
		return s.failed(verb, "", errors.ErrUnsupported)
	}
	if err := r.part(away); err != nil {
		return s.failed(verb, "", err)
	}
	return nil
}
