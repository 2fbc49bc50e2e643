// Package contexts has what every call that takes a context asks of it.
package contexts

import "context"

// Require panics if there is no context: here, in the caller's goroutine, which
// can recover, and not later in one of the library's, which ends the process.
func Require(ctx context.Context) {
	if ctx == nil {
		panic("kv: nil context")
	}
}
