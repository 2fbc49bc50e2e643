// Package backendtest is the contract of package backend as a test suite. The
// author of a driver runs it against a real server in its stock configuration,
// through the constructor that users call:
//
//	func TestConformance(t *testing.T) {
//		srv := startServer(t)
//		backendtest.Run(t, backendtest.Harness{
//			Open: func(t testing.TB, root string) backend.Store {
//				return foostore.New(srv.Client(t), foostore.Options{Root: root})
//			},
//		})
//	}
//
// Each case is named after the rule of docs/semantics.md that it shows, so
// that -run TestConformance/R11 runs what R11 says; the cases that have to
// wait for time to pass stand below "timed" and run beside each other:
// -run TestConformance/timed/R28. A case has a root of its own, so the suite
// can run again and again on one server, and checks that no goroutine outlives
// it.
//
// Capabilities are tested both ways (R42): one that is set is proven, one that
// is not is shown to be refused or to be missing where that can be shown.
//
// What a harness leaves out is not skipped in silence: Run logs the cases that
// did not run and the field that they need.
//
// The cases use nothing but package backend. Validator, which judges a stream
// of events against the writes that made it, is exported for tests of faults
// that live elsewhere.
package backendtest
