module github.com/polykv/kv/backend/zookeeperkv

go 1.25.0

require (
	github.com/go-zookeeper/zk v1.0.4
	github.com/polykv/kv v0.0.0
	go.uber.org/goleak v1.3.0
)

require (
	github.com/vmihailenco/msgpack/v5 v5.4.1 // indirect
	github.com/vmihailenco/tagparser/v2 v2.0.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/polykv/kv => ../..
