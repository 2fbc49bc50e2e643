package zookeeperkv

type reaper struct{ s *Store }

func (r *reaper) known(second int64, ok bool) {}
func (r *reaper) isKnown(second int64) bool   { return false }
func (r *reaper) start()                      {}
func (r *reaper) stop()                       {}
