package etcdkv

import "time"

const minLease = 2 * time.Second

type seatPool struct{}
type reaper struct{}

func (*reaper) wake() {}

func (s *Store) queue(name string) string { return s.space.Meta() + "/lock/" + name + "\x00" }
