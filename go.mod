module github.com/polykv/kv

go 1.25.0
