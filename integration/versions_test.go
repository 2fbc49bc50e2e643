package integration

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/polykv/kv/integration/internal/suite"
	"github.com/polykv/kv/internal/testserver"
)

// otherVersions are those of etcd beside the one that all tests use; docs/versions.md tells what was found.
//
// By default that is Debian's, which is the oldest and the one whose watches are refused. KV_TEST_VERSIONS names others in
// its place, separated by commas, such as "debian,v3.5.35,v3.6.16"; those have to run.
func otherVersions() (versions []string, must bool) {
	if list := os.Getenv("KV_TEST_VERSIONS"); list != "" {
		return strings.Split(list, ","), true
	}
	return []string{"debian"}, false
}

// noWatches says that the driver refuses to watch on a server that does not tell the truth about its progress.
const noWatches = "unsupported operation: watches need etcd 3.4.25, 3.5.8 or later"

// TestVersions runs the suites on other versions of a server: what works on one works on all, or is refused with a clear
// error.
func TestVersions(t *testing.T) {
	versions, must := otherVersions()
	for _, version := range versions {
		child, other := suite.Child(version)
		switch {
		case child:
			server := testserver.StartVersion(t, testserver.Spec{Store: testserver.Etcd}, version)
			t.Run("conformance", func(t *testing.T) { suite.Conformance(t, testserver.Etcd, server) })
			t.Run("locks", func(t *testing.T) { suite.Locks(t, testserver.Etcd, server) })
			t.Run("watches", func(t *testing.T) { suite.Watches(t, testserver.Etcd, server) })
		case !other:
			t.Run("etcd "+version, func(t *testing.T) {
				if testing.Short() {
					t.Skip("-short")
				}
				argv, err := testserver.InstallVersion(t.Context(), testserver.Etcd, version)
				if errors.Is(err, testserver.ErrUnavailable) && !must {
					t.Skip(err)
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Parallel()
				t.Logf("using %s", argv)
				result := suite.Rerun(t, version)
				if version == "debian" {
					result.Refused(t, noWatches)
				} else {
					result.Complete(t)
				}
			})
		}
	}
}
