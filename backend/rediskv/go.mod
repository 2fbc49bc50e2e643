module github.com/polykv/kv/backend/rediskv

go 1.26.0

require github.com/polykv/kv v0.0.0

replace github.com/polykv/kv => ../..
