#!/usr/bin/env bash
# Test certificates for C2PA content credentials, in test/golden/credentials. Made with OpenSSL 3.0.19. They certify nothing.
set -euo pipefail
cd "$(dirname "$0")/../credentials"
rm -f ./*.pem
scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT
days=36500

key() { # NAME ALGORITHM [OPTION]
  openssl genpkey -algorithm "$2" ${3:+-pkeyopt "$3"} -out "$1-key.pem" 2> /dev/null
}
extensions() { # KEY_USAGE EXTENDED
  printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,%s\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' "$1"
  [ -z "${2:-}" ] || printf 'extendedKeyUsage=%s\n' "$2"
}
leaf() { # NAME EXTENDED: a certificate of the intermediate for NAME-key.pem, followed by that of the intermediate
  local name=$1 extended=$2
  openssl req -new -key "$name-key.pem" -subj "/C=XX/O=Octet test/CN=$name" -out "$scratch/request"
  openssl x509 -req -in "$scratch/request" -CA "$scratch/intermediate.pem" -CAkey "$scratch/intermediate-key.pem" \
    -extfile <(extensions digitalSignature "$extended") -days $days -out "$scratch/leaf.pem" 2> /dev/null
  cat "$scratch/leaf.pem" "$scratch/intermediate.pem" > "$name.pem"
}

authority='basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n'
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$scratch/root-key.pem" 2> /dev/null
openssl req -new -x509 -key "$scratch/root-key.pem" -subj '/C=XX/O=Octet test/CN=Root' -days $days \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -out root.pem
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$scratch/intermediate-key.pem" 2> /dev/null
openssl req -new -key "$scratch/intermediate-key.pem" -subj '/C=XX/O=Octet test/CN=Intermediate' -out "$scratch/request"
openssl x509 -req -in "$scratch/request" -CA root.pem -CAkey "$scratch/root-key.pem" -days $days \
  -extfile <(printf "${authority}authorityKeyIdentifier=keyid\n") -out "$scratch/intermediate.pem" 2> /dev/null

key es256 EC ec_paramgen_curve:P-256
key es384 EC ec_paramgen_curve:P-384
key ps256 RSA rsa_keygen_bits:2048
key ed25519 ED25519
for name in es256 es384 ps256 ed25519; do leaf $name emailProtection; done
cp es256-key.pem server-key.pem && leaf server serverAuth && rm server-key.pem
