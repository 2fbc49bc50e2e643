module github.com/polykv/kv/backend/zookeeperkv

go 1.25.0

require github.com/polykv/kv v0.0.0

replace github.com/polykv/kv => ../..
