package etcdkv

type reaper struct{}

func (*reaper) wake() {}
