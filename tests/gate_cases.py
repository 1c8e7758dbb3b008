"""Texts with and without personal data and secrets, written for this project: what the gates are measured on.

Each is (kind, text): the kind of the one thing that it holds, or "" for a text that only looks like it. Numbers are the
published test numbers of their kinds; key-like strings are put together here, so that no scanner takes them for real.
"""

from __future__ import annotations

EMAIL = (
    "Write to anna.keller@example.com please.", "my mail is j_smith+shop@mail.example.org", "Cc: BOSS@EXAMPLE.NET!",
    "send the receipt to o'neil@example.co.uk", "it bounced from 2fast@sub.domain.example.com twice",
    "contact: <mia@example.de>", "Is kettle-fan_99@example.io still on my account?", "mailto:sales@example.com",
    "ask ünal.kaya@example.com about it", "first.last@example.travel never got the invoice",
)  # fmt: skip
PHONE = (
    "Call me at +1 650-253-0000 tomorrow.", "my number is (650) 253-0000", "ring 020 7946 0018 after six",
    "Text +44 7400 123456 when it ships", "You can reach me on 650.253.0000", "phone: 6502530000",
    "mobile 07400 123456, evenings only", "WhatsApp +49 30 901820 works too", "fax it to +33 1 42 68 53 00",
    "tel. 650-253-0000 ext. 12", "please dial 0044 20 7946 0018", "Contact Ana: +55 11 96123-4567",
)  # fmt: skip
CARD = (
    "my card 4111 1111 1111 1111 was declined", "charged twice on 5555-5555-5555-4444", "Amex 378282246310005 please",
    "it is 6011111111111117, expires soon", "card number: 3530111333300000", "use 4012888888881881 instead",
    "The Mastercard 5105105105105100 has expired.", "Visa 4222222222222 (an old one)", "Diners 30569309025904",
)  # fmt: skip
IBAN = (
    "refund to DE89 3704 0044 0532 0130 00", "my account is GB82WEST12345698765432",
    "FR14 2004 1010 0505 0001 3M02 606",
    "IBAN: NL91ABNA0417164300", "pay it into ES9121000418450200051332 please", "it's CH93 0076 2011 6238 5295 7 now",
    "de89370400440532013000 is right", "Send it to AT611904300234573201, thanks",
)  # fmt: skip
MACHINE = (
    ("ip_address", "the login came from 203.0.113.42"), ("ip_address", "blocked at 198.51.100.7:8080 again"),
    ("ip_address", "my router says 192.168.1.1"), ("ip_address", "I see 2001:db8::8a2e:370:7334 in the log"),
    ("ip_address", "it pings fe80::1 only"), ("ip_address", "from 2001:0db8:85a3:0000:0000:8a2e:0370:7334"),
    ("mac_address", "the device 00:1B:44:11:3A:B7 cannot connect"), ("mac_address", "adapter 00-1b-44-11-3a-b7"),
    ("mac_address", "MAC: AC:DE:48:00:11:22"), ("ip_address", "server at 10.0.0.12, port 22"),
)  # fmt: skip
NATIONAL = (
    "my SSN is 536-90-4399", "social security 219-46-3458 on file", "Is 457-55-5462 the right one?",
    "NI number QQ would be wrong, mine is AB 12 34 56 C", "NINO: JG103759A", "NHS number 943 476 5919",
    "my nhs no. is 9434765870", "Steuer-ID 36 574 261 809", "the tax id 36574261809 is mine",
)  # fmt: skip
_A, _H = "abcDEF123ghi456JKL789mno012PQR345stu", "0123456789abcdef0123456789abcdef"
SECRET = (
    "the key is " + "AKIA" + "IOSFODNN7EXAMPLE", "token " + "ghp_" + _A + "A", "use " + "sk-" + "proj-" + _A + _A[:8],
    "Authorization: Bearer " + "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0." + _A + "-4",
    "slack: " + "xoxb-" + "123456789012-123456789012-" + _A[:24], "stripe " + "sk_" + "live_" + _A[:24],
    "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow\n-----END RSA " + "PRIVATE KEY-----", "my password is Tr0ub4dor&3",
    "password: hunter2hunter", 'api_key = "' + _H + '"', "pwd=Winter-2026!", "export API_KEY=" + _A[:20],
    "the access token: " + _H, "secret: s3cr3t-value-9", "postgres://shop:pa55w0rd@db.example.com/orders",
    "glpat-" + _A[:20], "passcode is 4f9K22x", "npm token //registry.example/:_authToken=" + "npm_" + _A,
    "auth_token => " + _A[:30], "OPENAI: " + "sk-" + _A + _A[:12],
)  # fmt: skip

CLEAN = (
    "where is order 4111 1111 1111 1112?", "order number 2025550143 has not arrived",
    "tracking 1Z999AA10123456784 stuck",
    "invoice 6502530000 is wrong", "I paid $1,299.00 on 2026-11-25 at 14:30:05", "version 1.2.3.4 crashes on start",
    "firmware 10.0.0.12 broke my kettle", "update to v2.4.1.0 please", "the ISBN is 978-3-16-148410-0",
    "it costs 19.99 to 29.99",
    "my flight leaves at 12:30:45", "see section 1.2.3.4.5 of the manual", "article #6502530000 is out of stock",
    "I waited 536 days, 90 hours and 4399 minutes", "ratio of 16:9 or 4:3?", "meet me @home",
    "follow @kettle_fan on there",
    "price@checkout differs from the page", "email me when it ships", "what is your phone number?", "call me maybe",
    "do you have an email address?", "serial 123-45-67890 does not register", "the code is AB12 CD34", "PIN please",
    "550e8400-e29b-41d4-a716-446655440000 is the request id", "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709 is the checksum", "model X-100-20-3000 in blue",
    "1234567812345678 parcels",
    "0000 0000 0000 0000 shows on the display", "from 9am to 5pm, Monday 1-5", "room 12:34, floor 5",
    "1,000,000,000 rows",
    "my password is incorrect", "I forgot my password", "reset the password: where?", "the token is invalid",
    "secret sauce",
    "what is an api key?", "my api key is not working", "the secret is out-of-stock", "tokens are expensive",
    "a password is required to log in", "is the passcode four-digit?", "password must be longer", "sk-ip this step",
    "eyJust kidding", "task-force meeting at noon", "the secret: patience", "access token expired again",
    "AKIAS is a shop",
    "DE is short for Germany, 89 for Munich", "GB82 WEST is a bus line", "flat 3M02, door 606",
    "IBAN is missing on the form",
    "GB82WEST12345698765431 looks wrong", "what does IBAN mean?", "I moved from NW1 6XE to SW1A 1AA",
    "part AB123456 please",
    "ticket 203.0.113 is open", "score 3.14.15.926", "256.300.1.1 is no address", "std::vector<int> in C++", "a::b::c",
    "time 00:11:22:33", "1:2:3", "the colour #AABBCC", "aa:bb:cc is a pattern", "2 + 2 = 4", "50% off until 31/12/2026",
    "latitude 52.5200, longitude 13.4050", "dimensions 20 x 30 x 40 cm", "12345678901234567890 is a big number",
    "order 5555-5555-5555-4443 was cancelled", "batch 378282246310006", "reference 020 7946 00", "extension 12",
    "NHS waiting times are long", "my tax id is missing", "QQ123456C is the example on the form",
    "000-12-3456 is a sample",
    "size 10-12-2026?", "SKU 123-45-6789-0", "can I return it within 30 days", "delivery took 14 days",
    "item 42, aisle 7",
    "Kettle 3000 Pro 2026 Edition", "10.5.2026 is the date", "5.0.1 is out", "chapter 10.2", "win 2-1 on Sunday",
    "the year 1999 and 2000", "call the function f(650, 253, 0000)", "I called 3 times", "text me later", "ring size 7",
)  # fmt: skip

CASES: list[tuple[str, str]] = [
    *(("email", text) for text in EMAIL),
    *(("phone", text) for text in PHONE),
    *(("card", text) for text in CARD),
    *(("iban", text) for text in IBAN),
    *MACHINE,
    *(("national_id", text) for text in NATIONAL),
    *(("secret", text) for text in SECRET),
    *(("", text) for text in CLEAN),
]
