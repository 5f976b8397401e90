declare module 'adm-zip' {
  export default class AdmZip {
    constructor(file: string)
    getEntry(name: string): { getData(): Buffer } | null
  }
}
