module github.com/polykv/kv/backend/zookeeperkv

go 1.25.0

require (
	github.com/go-zookeeper/zk v1.0.4
	github.com/polykv/kv v0.0.0
	go.uber.org/goleak v1.3.0
)

replace github.com/polykv/kv => ../..
