package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// security is what the command line says of TLS.
type security struct{ ca, cert, key string }

// config returns nil if nothing was said: the URL decides then.
func (s security) config() (*tls.Config, error) {
	if s == (security{}) {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.ca != "" {
		pem, err := os.ReadFile(s.ca)
		if err != nil {
			return nil, usageError(err.Error())
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usageError(fmt.Sprintf("%s: no certificate in it", s.ca))
		}
	}
	if (s.cert == "") != (s.key == "") {
		return nil, usageError("-cert and -key go together")
	}
	if s.cert != "" {
		pair, err := tls.LoadX509KeyPair(s.cert, s.key)
		if err != nil {
			return nil, usageError(err.Error())
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}
