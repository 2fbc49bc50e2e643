package zookeeperkv

import "github.com/go-zookeeper/zk"

type hub struct{}

func (*hub) init(*link) {}
func (*hub) event(e zk.Event) {}
