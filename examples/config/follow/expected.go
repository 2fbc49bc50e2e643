package follow

import _ "embed"

// Expected is what Tell prints, on every store.
//
//go:embed testdata/config.txt
var Expected string
