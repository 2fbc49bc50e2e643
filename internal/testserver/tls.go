package testserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Certificates are made anew for each server: nothing in the repository can expire or leak.
const certificateLife = 24 * time.Hour

// A pki holds the files and configurations of one server with TLS.
type pki struct {
	ca, server, serverKey string // PEM files
	serverBoth            string // key and certificate in one file
	client, clientKey     string
	trusted, wrong        *tls.Config // of clients
}

// newPKI makes an authority with a server's and a client's certificate below dir, and another authority that the server
// does not know.
func newPKI(dir string) (*pki, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	ca, err := newAuthority("kv test")
	if err != nil {
		return nil, err
	}
	wrong, err := newAuthority("kv test, not trusted")
	if err != nil {
		return nil, err
	}
	server, err := ca.issue()
	if err != nil {
		return nil, err
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	p := &pki{
		ca: file("ca.pem"), server: file("server.pem"), serverKey: file("server-key.pem"), serverBoth: file("server-both.pem"),
		client: file("client.pem"), clientKey: file("client-key.pem"),
	}
	client, err := ca.issue()
	if err != nil {
		return nil, err
	}
	if p.trusted, err = clientConfig(ca, client); err != nil {
		return nil, err
	}
	stranger, err := wrong.issue()
	if err != nil {
		return nil, err
	}
	if p.wrong, err = clientConfig(wrong, stranger); err != nil {
		return nil, err
	}
	for name, text := range map[string][]byte{
		p.ca: ca.pem, p.server: server.cert, p.serverKey: server.key, p.serverBoth: append(server.key[:len(server.key):len(server.key)], server.cert...),
		p.client: client.cert, p.clientKey: client.key,
	} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			return nil, err
		}
	}
	return p, nil
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := sign(template, template, key, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, pem: encodePEM("CERTIFICATE", der)}, nil
}

type keyPair struct{ cert, key []byte } // PEM

// issue makes a certificate of this machine for either side: etcd's gateway shows the server's own to its server. It has
// no common name, which etcd would take for a user's.
func (a *authority) issue() (keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, err
	}
	der, err := sign(&x509.Certificate{
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, key, a.key)
	if err != nil {
		return keyPair{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return keyPair{}, err
	}
	return keyPair{cert: encodePEM("CERTIFICATE", der), key: encodePEM("PRIVATE KEY", keyDER)}, nil
}

func sign(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Hour) // clocks differ
	template.NotAfter = time.Now().Add(certificateLife)
	return x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func clientConfig(a *authority, pair keyPair) (*tls.Config, error) {
	cert, err := tls.X509KeyPair(pair.cert, pair.key)
	if err != nil {
		return nil, fmt.Errorf("testserver: client certificate: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}}, nil
}
