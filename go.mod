module github.com/polykv/kv

go 1.25.0

require github.com/google/btree v1.1.3

require go.uber.org/goleak v1.3.0
