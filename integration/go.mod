module github.com/polykv/kv/integration

go 1.26.7

require github.com/polykv/kv v0.0.0

replace github.com/polykv/kv => ..
